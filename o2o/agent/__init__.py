"""The agent: one world model, critic, policy, planner and loss balance that learn and act together."""
