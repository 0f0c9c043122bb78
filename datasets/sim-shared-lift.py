"""Makes a dataset of a simulated arm that lifts a cube by 10 cm, observed as in every task.

See `sim-shared-reach`. A scripted expert acts with noise of 0.2 to 0.9 times the action limits.
"""

from o2o.core import plugins

shared = plugins.load("datasets", "sim-shared-reach")
RECIPE = shared.make_recipe("lift", "lifts a cube by 10 cm", noise=(0.2, 0.9))
