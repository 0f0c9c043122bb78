"""Makes a dataset of a simulated arm that pushes a cube onto a disc, observed as in every task.

See `sim-shared-reach`. A scripted expert acts with noise of 0.1 to 0.9 times the action limits.
"""

from o2o.core import plugins

shared = plugins.load("datasets", "sim-shared-reach")
RECIPE = shared.make_recipe("push", "pushes a cube onto a disc", noise=(0.1, 0.9))
