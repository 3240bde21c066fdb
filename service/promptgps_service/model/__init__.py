"""Maths of prompt difficulty: how each prompt's success rate is distributed for the present policy.

Symbols and shapes used throughout the package (letters of GPS, arXiv 2602.01970, and of the
hierarchical filter):

====================  =========  ===================================================================
symbol                shape      meaning
====================  =========  ===================================================================
N                                prompts of the run (rows)
M                                prompts visited in one step, each once (rows are merged before
                                 learning)
D                                features of a prompt
K                                quadrature nodes
tau, i                           a prompt, its row
gamma_it = γ          [N]        success rate of the current policy on prompt i; difficulty is 1 − γ
theta_it              [N]        logit of γ_it
e_tau = x_i           [N, D]     features of a prompt: blocks of equal energy, see ``features.py``
s, n                  [M]        successes and trials of a visit; real numbers, so that evidence can
                                 be tempered
H_t                              what step t adds: (rows, s, n)
age                   [M]        steps learned by newer policies than the one that made a visit
a_t                   []         level: log-odds common to all prompts at step t
G_it                  [N]        gain a prompt has accumulated from its own informative visits
                                 (0 < s < n)
w                     [D]        text weights; τ_g their prior variance in block g; P their
                                 covariance [D, D]
u_i                   [N]        what text does not explain of prompt i; su2 its variance
mu, V                 [N]        mean and variance of theta given the log so far
z_t                   [Z]        latent state of the policy at step t, shared by all prompts
                                 (``neural``)
eta                              parameters of the prior p_eta(z_t | H_{t-1})
phi                              parameters of the posterior q_phi(z_t | H_t)
psi                              parameters of the decoder p_psi(gamma | e_tau, z_t)
====================  =========  ===================================================================
"""
