"""How fast this machine learns and plans, beside plain PyTorch and its own arithmetic."""
