"""How well a masked base can be guessed from its neighbours by counting: the baseline that a DNA model must beat.

For every order k up to 8, four models of a base given the k bases to either side are fitted to the training bases:

* ``left k`` and ``right k``: one side only;
* ``joint k``: k bases of both sides as one context of 2k bases;
* ``mixed k``: a product of powers of all of these, of every order up to k.

Each is a chain from order 0 upwards, smoothed towards the order below (Dirichlet, one concentration per order). Both
strands are counted. An unknown neighbour ([MASK], N, the end of the window) is summed over, so that the known ones
around it still count (up to three of them where the context is longer than ten bases). Concentrations, powers and the
best of the models are chosen on held-out pieces of the training bases, masked as in training; then all is counted again
on all training bases. Validation bases are never looked at.

    python -m benchmarks.context_model --config configs/pretrain/quickstart.yaml [section.key=value ...]
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.context_counts import BASES, REACH, UNKNOWN, Array, CountTable
from ldarnet.alphabet import MASK, PAD
from ldarnet.config import RunConfig, load_config
from ldarnet.data import Masking, ShardSet, validation_batches
from ldarnet.errors import UserError
from ldarnet.pretraining.validation import MASK_SEED

OFFSETS = {
    "left": tuple(range(-1, -REACH - 1, -1)),
    "right": tuple(range(1, REACH + 1)),
    "joint": tuple(sign * distance for distance in range(1, REACH + 1) for sign in (-1, 1)),
}
"""Places of a family's context bases, in the order in which its chain takes them in."""
CONCENTRATIONS = 2.0 ** np.arange(-1, 15)
HELD_OUT_BASES = 2_000_000
CHUNK = 1 << 16
NEWTON_STEPS = 30
RIDGE = 1e-5
PUBLISHED_MASKING = Masking()
TRAINING_SPLIT = "train"
VALIDATION_BATCH = 64


@dataclass(frozen=True)
class ContextModel:
    """Fitted counts and all that was chosen on the held-out pieces.

    Attributes:
        composition: (4,) share of each base, both strands.
        tables: counts by family.
        concentrations: by family, one per order from 1.
        powers: by order k, of the log-probabilities that ``mixed k`` multiplies (see `_mixed_features`).
        held_out: nats per [MASK] position of every model on the held-out pieces.
        best: the model with the smallest of these.
    """

    composition: Array
    tables: dict[str, CountTable]
    concentrations: dict[str, Array]
    powers: dict[int, Array]
    held_out: dict[str, float]
    best: str

    def predict(self, input_ids: Array, rows: Array, columns: Array) -> dict[str, Array]:
        """Probabilities (n, 4) by model for n positions of the windows `input_ids` (w, L), their own id unseen."""
        chains = {}
        for family, table in self.tables.items():
            context = _contexts(input_ids, rows, columns, table.offsets)
            chains[family] = _chain(table, context, self.composition, self.concentrations[family])
        models = _single_models(chains)
        for order, powers in self.powers.items():
            models[f"mixed {order}"] = _softmax(_mixed_features(chains, order) @ powers)
        return models


def fit(train: Sequence[Array], *, length: int = 1024, masking: Masking = PUBLISHED_MASKING) -> ContextModel:
    """Fit every model to stretches of training ids.

    Args:
        train: stretches of ids, (L_i,) uint8 each.
        length: bases per window that the model is tried on; what lies outside a window is not seen.
        masking: the masking rule.

    Raises:
        UserError: there are too few bases to hold some out.
    """
    fitting, held_out = _hold_out(train, length)
    windows = _cut(held_out, length)
    input_ids, labels = masking.apply(windows, "", np.arange(len(windows)), stream="held out")
    rows, columns = np.nonzero((labels >= 0) & (input_ids == MASK))
    if not len(rows) or not fitting:
        raise UserError(
            f"{sum(map(len, train))} training bases are too few to fit context models on; take a larger split"
        )
    targets = labels[rows, columns]

    composition = _composition(fitting)
    concentrations, chains = {}, {}
    for family, offsets in OFFSETS.items():
        table = CountTable(fitting, offsets)
        context = _contexts(input_ids, rows, columns, offsets)
        concentrations[family], chains[family] = _fit_chain(table, context, composition, targets)
    losses = {name: _nats(p, targets).mean() for name, p in _single_models(chains).items()}
    powers = {}
    for order in range(1, REACH + 1):
        features = _mixed_features(chains, order)
        powers[order] = _fit_powers(features, targets)
        losses[f"mixed {order}"] = _nats(_softmax(features @ powers[order]), targets).mean()
    return ContextModel(
        composition=_composition(train),
        tables={family: CountTable(train, offsets) for family, offsets in OFFSETS.items()},
        concentrations=concentrations,
        powers=powers,
        held_out={name: float(loss) for name, loss in losses.items()},
        best=min(losses, key=lambda name: losses[name]),
    )


@dataclass(frozen=True)
class Scores:
    """What guesses cost at n scored positions of masked windows.

    Attributes:
        rows: (n,) window of each position.
        columns: (n,) its place in the window.
        targets: (n,) true base.
        masked: (n,) whether it is shown as [MASK], and not as a base.
        nats: by model, (n,) minus the logarithm of the probability given to the true base.
        right: by model, (n,) whether the true base got the highest probability, the base shown left aside.
    """

    rows: Array
    columns: Array
    targets: Array
    masked: Array
    nats: dict[str, Array]
    right: dict[str, Array]

    def summary(self, where: Array | None = None) -> dict[str, dict[str, float]]:
        """Means by model over the positions picked by `where` (n,), by default all; not a number over none.

        ``mask_loss`` is over positions shown as [MASK], ``copy_loss`` over those shown as a base, ``mlm_loss`` over all
        (nats per base); ``accuracy`` is the share of right guesses at [MASK].
        """
        picked = np.ones(len(self.rows), bool) if where is None else where
        masked, shown = picked & self.masked, picked & ~self.masked
        return {
            name: {
                "mask_loss": _mean(nats[masked]),
                "copy_loss": _mean(nats[shown]),
                "mlm_loss": _mean(nats[picked]),
                "accuracy": _mean(self.right[name][masked]),
            }
            for name, nats in self.nats.items()
        }

    def entropy(self) -> float:
        """Entropy of the composition of the true bases at [MASK], in nats: the least that one guess for all costs."""
        share = np.bincount(self.targets[self.masked], minlength=BASES) / max(self.masked.sum(), 1)
        return float(-sum(p * np.log(p) for p in share if p > 0))


def score(model: ContextModel, input_ids: Array, labels: Array, masking: Masking = PUBLISHED_MASKING) -> Scores:
    """Let every model guess the scored positions of masked windows.

    Where a position shows a base s, a guess p(b) is turned into what follows from s being the true base or a random
    one: ``p(b | s) ~ p(b) (keep [b = s] + random / 4)``.

    Args:
        model: what `fit` gave.
        input_ids: (w, L) ids as a model would see them.
        labels: (w, L) true ids, negative where not scored.
        masking: the masking rule that made them.
    """
    rows, columns = np.nonzero(labels >= 0)
    targets, shown = labels[rows, columns].astype(np.int64), input_ids[rows, columns]
    nats, right = defaultdict(list), defaultdict(list)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        for name, p in model.predict(input_ids, rows[part], columns[part]).items():
            nats[name].append(_nats(_given_shown(p, shown[part], masking), targets[part]))
            right[name].append(p.argmax(axis=1) == targets[part])
    joined = ({name: np.concatenate(parts) for name, parts in found.items()} for found in (nats, right))
    return Scores(rows, columns, targets, shown == MASK, *joined)


def training_bases(shards: ShardSet) -> list[Array]:
    """The stretches of ids that training windows are cut from.

    Raises:
        UserError: there is no split ``train``, or a shard has changed.
    """
    if TRAINING_SPLIT not in shards.index.splits:
        raise UserError(f"{shards.folder}: no split {TRAINING_SPLIT!r} to fit on; it holds {', '.join(shards.splits)}")
    return [shards.read(*interval) for interval in shards.index.splits[TRAINING_SPLIT].tolist()]


def validation_set(shards: ShardSet, config: RunConfig) -> tuple[Array, Array]:
    """Exactly what a run of this configuration is validated on: input ids and labels, (w, L) int64 each.

    Raises:
        UserError: the split is missing or too small, or a shard has changed.
    """
    batches = validation_batches(
        shards,
        config.validation.split,
        length=config.data.length,
        max_windows=config.validation.windows,
        batch=VALIDATION_BATCH,
        rank=0,
        world=1,
        masking=run_masking(config),
        max_n_run=config.data.max_n_run,
    )
    inputs, labels = zip(*((batch.input_ids.numpy(), batch.labels.numpy()) for batch in batches), strict=True)
    return np.concatenate(inputs), np.concatenate(labels)


def run_masking(config: RunConfig) -> Masking:
    """The masking rule of a run's validation."""
    data = config.data
    return Masking(rate=data.mask_rate, mask=data.mask_share, random=data.random_share, seed=MASK_SEED)


def _hold_out(train: Sequence[Array], length: int) -> tuple[list[Array], list[Array]]:
    """Cut the stretches into blocks and set aside every tenth of them, or fewer of a large genome."""
    total = sum(map(len, train))
    block = max(min(total // 20, 1 << 16) // length, 1) * length
    blocks = [piece[start : start + block] for piece in train for start in range(0, len(piece), block)]
    every = max(10, total // HELD_OUT_BASES)
    aside = set(range(min(every, len(blocks)) // 2, len(blocks), every))
    return [b for i, b in enumerate(blocks) if i not in aside], [blocks[i] for i in sorted(aside)]


def _cut(pieces: Sequence[Array], length: int) -> Array:
    """Windows (w, length) of the pieces, the last of each padded."""
    padded = [np.pad(piece, (0, -len(piece) % length), constant_values=PAD) for piece in pieces]
    return np.concatenate([np.zeros(0, np.uint8), *padded]).reshape(-1, length)


def _composition(pieces: Sequence[Array]) -> Array:
    counts = sum(np.bincount(piece, minlength=BASES)[:BASES] for piece in pieces) + np.ones(BASES)
    both = counts + counts[::-1]
    return both / both.sum()


def _contexts(input_ids: Array, rows: Array, columns: Array, offsets: Sequence[int]) -> Array:
    """What lies at each offset from n positions, (n, len(offsets)) uint8 with 4 for all that is unknown."""
    sides = ((0, 0), (REACH, REACH))
    padded = np.pad(np.minimum(input_ids, UNKNOWN).astype(np.uint8), sides, constant_values=UNKNOWN)
    return padded[rows[:, None], columns[:, None] + (REACH + np.asarray(offsets))]


def _refine(counts: Array, informs: Array, below: Array, concentration: float) -> Array:
    """One link of the chain: counts smoothed towards the order below, where they add something to it."""
    refined = (counts + concentration * below) / (counts.sum(axis=1, keepdims=True) + concentration)
    return np.where(informs[:, None], refined, below)


def _chain(table: CountTable, context: Array, composition: Array, concentrations: Array) -> list[Array]:
    """Probabilities (n, 4) of every order from 0."""
    chain = [np.broadcast_to(composition, (len(context), BASES))]
    for order, concentration in enumerate(concentrations, start=1):
        chain.append(_refine(table.counts(context, order), table.informs(context, order), chain[-1], concentration))
    return chain


def _fit_chain(table: CountTable, context: Array, composition: Array, targets: Array) -> tuple[Array, list[Array]]:
    """Choose the concentration of each order in turn; returns them and the chain they give."""
    chain, chosen = [np.broadcast_to(composition, (len(context), BASES))], []
    for order in range(1, len(table.offsets) + 1):
        counts, informs = table.counts(context, order), table.informs(context, order)
        trials = (_refine(counts, informs, chain[-1], concentration) for concentration in CONCENTRATIONS)
        losses = [_nats(trial, targets).mean() for trial in trials]
        chosen.append(CONCENTRATIONS[int(np.argmin(losses))])
        chain.append(_refine(counts, informs, chain[-1], chosen[-1]))
    return np.array(chosen), chain


def _single_models(chains: dict[str, list[Array]]) -> dict[str, Array]:
    """The models that are one link of one chain, by name."""
    models = {"composition": chains["left"][0]}
    for order in range(1, REACH + 1):
        for family, chain in chains.items():
            models[f"{family} {order}"] = chain[2 * order if family == "joint" else order]
    return models


def _mixed_features(chains: dict[str, list[Array]], order: int) -> Array:
    """Log-probabilities (n, 4, m) of order 0, left and right 1..order, joint contexts of 2..2*order bases."""
    one_sided = [chains[family][k] for family in ("left", "right") for k in range(1, order + 1)]
    return np.log(np.stack([chains["left"][0], *one_sided, *chains["joint"][2 : 2 * order + 1]], axis=-1))


def _fit_powers(features: Array, targets: Array) -> Array:
    """Powers (m,) that minimise the loss of the normalised product: a convex problem, by Newton's method."""
    powers = np.zeros(features.shape[-1])
    powers[0] = 1.0
    for _ in range(NEWTON_STEPS):
        gradient, hessian = RIDGE * powers, RIDGE * np.eye(len(powers))
        for start in range(0, len(targets), CHUNK):
            part = features[start : start + CHUNK]
            p = _softmax(part @ powers)
            mean = np.einsum("nb,nbm->nm", p, part)
            hit = part[np.arange(len(part)), targets[start : start + CHUNK]]
            gradient = gradient + (mean - hit).sum(axis=0) / len(targets)
            spread = ((part - mean[:, None]) * np.sqrt(p)[..., None]).reshape(-1, len(powers))
            hessian = hessian + spread.T @ spread / len(targets)
        step = np.linalg.solve(hessian, gradient)
        powers = powers - step
        if np.abs(step).max() < 1e-6:
            break
    return powers


def _softmax(scores: Array) -> Array:
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _given_shown(p: Array, shown: Array, masking: Masking) -> Array:
    """Probabilities once the shown base is taken into account; those of [MASK] positions stay."""
    keep = 1 - masking.mask - masking.random
    likelihood = keep * (shown[:, None] == np.arange(BASES)) + masking.random / BASES
    posterior = p * np.where(shown[:, None] == MASK, 1.0, likelihood)
    return posterior / posterior.sum(axis=1, keepdims=True)


def _nats(p: Array, targets: Array) -> Array:
    return -np.log(p[np.arange(len(targets)), targets])


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def main() -> None:
    """Fit on the training split of a run's shard set and print what every model costs on its validation windows."""
    parser = argparse.ArgumentParser(description="Context models as a baseline for masked language modelling of DNA.")
    parser.add_argument("--config", required=True, help="configuration of a pretraining run (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="such as data.shards=runs/my-shards")
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config, arguments.overrides)
        shards = ShardSet.open(config.data.shards)
        input_ids, labels = validation_set(shards, config)
        train = training_bases(shards)
        print(f"{sum(map(len, train)):,} training bases; {len(labels):,} windows of split {config.validation.split!r}")
        model = fit(train, length=config.data.length, masking=run_masking(config))
    except UserError as error:
        sys.exit(f"error: {error}")
    scores = score(model, input_ids, labels, run_masking(config))
    print(f"entropy of the composition of the bases shown as [MASK]: {scores.entropy():.4f}\n")
    print(f"{'nats per base':16}{'held out':>10}{'[MASK]':>10}{'shown':>10}{'all':>10}{'accuracy':>10}")
    for name, row in scores.summary().items():
        print(f"{name:16}{model.held_out[name]:10.4f}" + "".join(f"{value:10.4f}" for value in row.values()))
    print(f"\nbest on held-out training bases: {model.best}")


if __name__ == "__main__":
    main()
