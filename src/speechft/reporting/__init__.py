"""Reports of runs: one self-contained HTML file with tables and figures."""
