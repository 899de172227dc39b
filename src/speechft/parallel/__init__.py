"""Several processes: work that they share through a folder, a launcher's processes as one."""
