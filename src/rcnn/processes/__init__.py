"""Several processes that work on one thing: started by torchrun, SLURM or rcnn itself."""
