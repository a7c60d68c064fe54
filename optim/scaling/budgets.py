"""The rules for batch and duration alone, apart from those for width and depth."""

from optim.entry import nearest

# Multipliers of learning rate, epsilon, coupled decay, 1 - beta1 and 1 - beta2, from kappa (batch
# over the base's) and the ratio of tokens.
BUDGETS = {
    "constant": lambda kappa, tokens: (1, 1, 1, 1, 1),
    "sqrt": lambda kappa, tokens: (kappa**0.5, kappa**-0.5, 1, kappa, kappa),
    "adamw_sde": lambda kappa, tokens: (1, kappa**-0.5, kappa**0.5, 1, kappa**0.5),
    "tau": lambda kappa, tokens: (1, 1, kappa / tokens, 1, 1),
    "nanochat": lambda kappa, tokens: (kappa**0.5, 1, kappa**0.5 / tokens, 1, 1),
}


def budget(rule: str, *, batch: float = 1.0, tokens: float = 1.0) -> dict[str, float]:
    """Multipliers for another batch and another number of tokens, whatever the width and depth.

        rule       learning rate  epsilon        coupled decay         1 - beta1  1 - beta2
        sqrt       sqrt(kappa)    1/sqrt(kappa)  1                     kappa      kappa
        adamw_sde  1              1/sqrt(kappa)  sqrt(kappa)           1          sqrt(kappa)
        tau        1              1              kappa / tokens        1          1
        nanochat   sqrt(kappa)    1              sqrt(kappa) / tokens  1          1

    "sqrt": the SDE of Adam, arXiv 2205.10287, where the noise of the gradient outweighs its mean;
    its betas are positive up to kappa < 1 / (1 - beta). (ArchScale leaves beta1, after 2507.07101.)
    "adamw_sde": arXiv 2411.15958, as ArchScale's pretrain.py 1211-1219 has it.
    "tau": keeps AdamW's memory of its weights, batch / (rate decay tokens), in units of the whole
    run, arXiv 2405.13698; 2505.13738 fits a power law in tokens per parameter instead.
    "nanochat": the same timescale with the rate ~ sqrt(kappa), karpathy/nanochat at 92d63d4,
    base_train.py 279-301, which applies it to Muon "hoping it ~works".

    Derived for Adam and AdamW; for other optimizers an assumption. On the hyperball decay is 0
    anyway. HyperP and muP bring laws of their own (`multipliers`): do not multiply them again.

    Raises:
      ValueError: an unknown name.

    Example:
      >>> import optim
      >>> optim.scaling.budget("tau", batch=2.0, tokens=8.0)["weight_decay"]
      0.25
    """
    if rule not in BUDGETS:
        raise ValueError(f"rule={rule!r} is unknown{nearest(rule, BUDGETS)}")
    names = ("learning_rate", "epsilon", "weight_decay", "one_minus_beta1", "one_minus_beta2")
    values = BUDGETS[rule](batch, tokens)
    return dict(zip(names, map(float, values), strict=True))
