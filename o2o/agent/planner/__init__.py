"""Plans actions with any world model: MPPI with a penalty on the disagreement of the Q-ensemble."""
