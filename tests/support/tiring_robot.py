"""Defines the point robot that reports success in its first six episodes only."""

from pathlib import Path

from o2o.core.plugins import load

Point = load("robots", str(Path(__file__).with_name("point_robot.py"))).Point


class Tiring(Point):
    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed, options=options)

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, info | {"success": self.episodes <= 6}


def make(config):
    return Tiring()
