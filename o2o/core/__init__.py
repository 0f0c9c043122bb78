"""Words and files that every other package uses: episodes, configs, errors, run folders, checkpoints."""
