"""Maths of test-time budgets: how many samples to spend on each prompt.

After Damani et al. (arXiv 2410.04707).

The way through the package: ``bins`` (predictions corrected by given outcomes), ``belief`` (what is
thought of each prompt's success rate, updated by its own outcomes), ``curves`` (what so many
samples are worth), ``envelope`` (curves that are not concave made so), ``budget`` (the total spread
by marginal gain).

=========  ============  ================================================================
symbol     shape         meaning
=========  ============  ================================================================
N                        prompts asked about
G                        points of the common grid of log-odds
p, q       [G]           probability that one sample is right, 1 − p
mu, sd     [N]           mean and standard deviation of a prompt's log-odds, as predicted
weights    [N, G]        belief: probability of each point of the grid
b          [N]           samples; a curve has a column for each b = 0, 1, …
V          [N, W + 1]    values: of b samples, in [0, 1]
=========  ============  ================================================================
"""
