"""Two hosts on one machine: processes are killed, links cut and disks filled between them."""
