"""What a run takes, before it takes it: disk, memory, GPU memory and hours, from its configuration alone."""
