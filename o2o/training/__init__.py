"""The loops: pretrain, fine-tune, evaluate; what learns beside a robot, and what lets it begin safely."""
