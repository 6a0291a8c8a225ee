"""The shared floor: config, task contract, training and evaluation loops, mergeable metrics, run folders."""
