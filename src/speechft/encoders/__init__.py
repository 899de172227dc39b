"""Speech encoders behind one contract: waveforms in, layers + 1 hidden states out."""
