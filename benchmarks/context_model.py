"""Order-8 context-mixing baseline: predict a masked base from its neighbors.

For every order k from 1 to 8, four models are fitted to the training bases:

* ``left k`` and ``right k`` predict a base from the k bases on one side.
* ``joint k`` predicts it from the k bases on each side, used as one context of 2k bases.
* ``mixed k`` is a log-linear combination of the unigram model and of these models up to order k: the probabilities
  are raised to fitted powers, multiplied and normalized.

The models ``left``, ``right`` and ``joint`` count how often each base occurs in each context. They smooth the counts of
a context towards the prediction of the context that is one base shorter (Dirichlet prior, one concentration per context
length). The context without bases is the unigram model, the share of each base. Both strands are counted. If a
neighbor is unknown ([MASK], N or outside the window), counts are summed over all four bases, so that known neighbors
farther away can still be used. A context of at most ten bases may have any number of unknown bases, a longer one at
most three.
Concentrations, powers and the best model are selected on held-out segments of the training bases, masked as in
training. Final counts include all training bases. Validation bases are never used.

    python -m benchmarks.context_model --config configs/pretrain/quickstart.yaml [section.key=value ...]
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.context_counts import BASES, REACH, UNKNOWN, Array, CountTable
from benchmarks.record import ProgramParser, run_program
from ldarnet.alphabet import MASK, PAD
from ldarnet.config import RunConfig, load_config
from ldarnet.data import Masking, ShardSet, validation_batches
from ldarnet.errors import UserError
from ldarnet.pretraining.masks import validation_maskings

OFFSETS = {
    "left": tuple(range(-1, -REACH - 1, -1)),
    "right": tuple(range(1, REACH + 1)),
    "joint": tuple(sign * distance for distance in range(1, REACH + 1) for sign in (-1, 1)),
}
"""Offsets of the context bases by family; each order adds the next offset."""
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
    """Fitted context models: counts over all training bases, and parameters selected on held-out segments.

    Attributes:
        composition: (4,) frequency of each base on both strands.
        tables: context counts by family (``left``, ``right``, ``joint``).
        concentrations: by family, Dirichlet concentrations of contexts of 1, 2, ... bases.
        powers: by order k, (m,) powers of the models that ``mixed k`` combines (see `_mixed_features`).
        held_out: loss of every model on the held-out segments, in nats per [MASK] position.
        best: name of the model with the lowest held-out loss.
    """

    composition: Array
    tables: dict[str, CountTable]
    concentrations: dict[str, Array]
    powers: dict[int, Array]
    held_out: dict[str, float]
    best: str

    def predict(self, input_ids: Array, rows: Array, columns: Array) -> dict[str, Array]:
        """Predict the bases at n positions from their neighbors: probabilities (n, 4), by model name.

        Args:
            input_ids: (w, L) ids of the windows.
            rows: (n,) window of each position.
            columns: (n,) position within the window.
        """
        chains = {}
        for family, table in self.tables.items():
            context = _contexts(input_ids, rows, columns, table.offsets)
            chains[family] = _chain(table, context, self.composition, self.concentrations[family])
        models = _single_models(chains)
        for order, powers in self.powers.items():
            models[f"mixed {order}"] = _softmax(_mixed_features(chains, order) @ powers)
        return models


def fit(train: Sequence[Array], *, length: int = 1024, masking: Masking = PUBLISHED_MASKING) -> ContextModel:
    """Fit every model to segments of training ids.

    Args:
        train: segments of ids, (L_i,) uint8 each.
        length: bases per held-out window; bases outside a window are unknown.
        masking: masking rule for the held-out windows.

    Raises:
        UserError: the segments are too short for a held-out set.
    """
    fitting, held_out = _hold_out(train, length)
    windows = _cut(held_out, length)
    input_ids, labels = masking.apply(windows, "", np.arange(len(windows)), stream="held out")
    rows, columns = np.nonzero((labels >= 0) & (input_ids == MASK))
    if not len(rows) or not fitting:
        raise UserError(
            f"{sum(map(len, train))} training bases are too few to fit context models; use a larger shard set"
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
    """Losses of models at n target positions of masked windows.

    Attributes:
        rows: (n,) window of each position.
        columns: (n,) position within the window.
        targets: (n,) true base.
        masked: (n,) whether the input is [MASK] rather than a base.
        nats: for each model, (n,) negative log-likelihood of the true base.
        right: for each model, (n,) whether the true base has the highest probability. Unlike `nats`, this never uses
            the input at the position itself.
    """

    rows: Array
    columns: Array
    targets: Array
    masked: Array
    nats: dict[str, Array]
    right: dict[str, Array]

    def summary(self, where: Array | None = None) -> dict[str, dict[str, float]]:
        """Mean losses and accuracy of each model over the positions where the mask `where` (n,) is true (default: all).

        Losses are in nats per base: ``mask_loss`` over target positions replaced by [MASK], ``copy_loss`` over target
        positions whose input is a base, ``mlm_loss`` over all target positions. ``accuracy`` is over the same positions
        as ``mask_loss``. Values are NaN if there are no such positions.
        """
        selected = np.ones(len(self.rows), bool) if where is None else where
        masked, shown = selected & self.masked, selected & ~self.masked
        return {
            name: {
                "mask_loss": _mean(nats[masked]),
                "copy_loss": _mean(nats[shown]),
                "mlm_loss": _mean(nats[selected]),
                "accuracy": _mean(self.right[name][masked]),
            }
            for name, nats in self.nats.items()
        }

    def entropy(self) -> float:
        """Entropy in nats of the bases at masked positions: the lowest loss of a constant prediction."""
        frequencies = np.bincount(self.targets[self.masked], minlength=BASES) / max(self.masked.sum(), 1)
        return float(-sum(p * np.log(p) for p in frequencies if p > 0))


def score(model: ContextModel, input_ids: Array, labels: Array, masking: Masking = PUBLISHED_MASKING) -> Scores:
    """Score every model at the target positions of masked windows.

    Where the input is a base s (the true base or a random one), a prediction p(b) is replaced by the posterior, which
    is proportional to ``p(b) (keep [b = s] + random / 4)``. `keep` and `random` are the probabilities that `masking`
    leaves a target base unchanged or replaces it with a random base.

    Args:
        model: fitted context models.
        input_ids: (w, L) masked input ids.
        labels: (w, L) true ids, negative at non-target positions.
        masking: masking rule that was applied to the windows.
    """
    rows, columns = np.nonzero(labels >= 0)
    targets, shown = labels[rows, columns].astype(np.int64), input_ids[rows, columns]
    nats, right = defaultdict(list), defaultdict(list)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        for name, p in model.predict(input_ids, rows[part], columns[part]).items():
            nats[name].append(_nats(_given_shown(p, shown[part], masking), targets[part]))
            right[name].append(p.argmax(axis=1) == targets[part])
    arrays = ({name: np.concatenate(parts) for name, parts in found.items()} for found in (nats, right))
    return Scores(rows, columns, targets, shown == MASK, *arrays)


def training_bases(shards: ShardSet) -> list[Array]:
    """Read the segments of ids from which training windows are drawn.

    Raises:
        UserError: the shard set has no split ``train``, or a shard is damaged.
    """
    if TRAINING_SPLIT not in shards.index.splits:
        raise UserError(
            f"{shards.folder}: no split {TRAINING_SPLIT!r} (only {', '.join(shards.splits)}); use another shard set"
        )
    return [shards.read(*interval) for interval in shards.index.splits[TRAINING_SPLIT].tolist()]


def validation_set(shards: ShardSet, config: RunConfig) -> tuple[Array, Array]:
    """Build the validation set of a configuration: masked input ids (w, L) and labels (w, L), int64.

    Raises:
        UserError: the split is missing or too small, or a shard is damaged.
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
    return np.concatenate(inputs).astype(np.int64), np.concatenate(labels).astype(np.int64)


def run_masking(config: RunConfig) -> Masking:
    """Masking rule that a configuration uses for validation."""
    masking = next(iter(validation_maskings(config).values()))
    if not isinstance(masking, Masking):
        raise UserError(f"{config.run.dir}: a causal run has no masks; choose a run with masks")
    return masking


def _hold_out(train: Sequence[Array], length: int) -> tuple[list[Array], list[Array]]:
    """Cut the segments into blocks; return the blocks to fit on, and the held-out blocks (about one in ten)."""
    total = sum(map(len, train))
    block = max(min(total // 20, 1 << 16) // length, 1) * length
    blocks = [piece[start : start + block] for piece in train for start in range(0, len(piece), block)]
    every = max(10, total // HELD_OUT_BASES)
    held_out = set(range(min(every, len(blocks)) // 2, len(blocks), every))
    return [b for i, b in enumerate(blocks) if i not in held_out], [blocks[i] for i in sorted(held_out)]


def _cut(pieces: Sequence[Array], length: int) -> Array:
    """Cut segments into windows (w, length); the last window of each segment is padded."""
    padded = [np.pad(piece, (0, -len(piece) % length), constant_values=PAD) for piece in pieces]
    return np.concatenate([np.zeros(0, np.uint8), *padded]).reshape(-1, length)


def _composition(pieces: Sequence[Array]) -> Array:
    counts = sum(np.bincount(piece, minlength=BASES)[:BASES] for piece in pieces) + np.ones(BASES)
    both = counts + counts[::-1]
    return both / both.sum()


def _contexts(input_ids: Array, rows: Array, columns: Array, offsets: Sequence[int]) -> Array:
    """Look up the context bases of n positions: (n, len(offsets)) uint8, `UNKNOWN` outside the window."""
    sides = ((0, 0), (REACH, REACH))
    padded = np.pad(np.minimum(input_ids, UNKNOWN).astype(np.uint8), sides, constant_values=UNKNOWN)
    return padded[rows[:, None], columns[:, None] + (REACH + np.asarray(offsets))]


def _refine(counts: Array, usable: Array, below: Array, concentration: float) -> Array:
    """Smooth counts (n, 4) towards `below`, the probabilities (n, 4) of the contexts that are one base shorter.

    Where the counts are not usable, the result is `below`.
    """
    refined = (counts + concentration * below) / (counts.sum(axis=1, keepdims=True) + concentration)
    return np.where(usable[:, None], refined, below)


def _chain(table: CountTable, context: Array, composition: Array, concentrations: Array) -> list[Array]:
    """Probabilities (n, 4) from contexts of 0, 1, 2, ... bases."""
    chain = [np.broadcast_to(composition, (len(context), BASES))]
    for order, concentration in enumerate(concentrations, start=1):
        chain.append(_refine(table.counts(context, order), table.is_usable(context, order), chain[-1], concentration))
    return chain


def _fit_chain(table: CountTable, context: Array, composition: Array, targets: Array) -> tuple[Array, list[Array]]:
    """Select the concentrations; return them, and the probabilities (n, 4) from contexts of 0, 1, 2, ... bases."""
    chain, selected = [np.broadcast_to(composition, (len(context), BASES))], []
    for order in range(1, len(table.offsets) + 1):
        counts, usable = table.counts(context, order), table.is_usable(context, order)
        trials = (_refine(counts, usable, chain[-1], concentration) for concentration in CONCENTRATIONS)
        losses = [_nats(trial, targets).mean() for trial in trials]
        selected.append(CONCENTRATIONS[int(np.argmin(losses))])
        chain.append(_refine(counts, usable, chain[-1], selected[-1]))
    return np.array(selected), chain


def _single_models(chains: dict[str, list[Array]]) -> dict[str, Array]:
    """Collect the probabilities of ``composition`` and of every ``left``, ``right`` and ``joint`` model, by name."""
    models = {"composition": chains["left"][0]}
    for order in range(1, REACH + 1):
        for family, chain in chains.items():
            models[f"{family} {order}"] = chain[2 * order if family == "joint" else order]
    return models


def _mixed_features(chains: dict[str, list[Array]], order: int) -> Array:
    """Stack the log-probabilities of the m models that ``mixed`` combines: (n, 4, m).

    The models are the unigram model, ``left`` and ``right`` with contexts of 1 to `order` bases, and ``joint`` with
    contexts of 2 to 2 * `order` bases.
    """
    one_sided = [chains[family][k] for family in ("left", "right") for k in range(1, order + 1)]
    return np.log(np.stack([chains["left"][0], *one_sided, *chains["joint"][2 : 2 * order + 1]], axis=-1))


def _fit_powers(features: Array, targets: Array) -> Array:
    """Find the powers (m,) with the lowest loss of the normalized product, by Newton's method."""
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
    """Return the posterior given the input base (see `score`): (n, 4). Where the input is [MASK], return `p` unchanged.

    Args:
        p: (n, 4) predicted probabilities.
        shown: (n,) input ids.
        masking: masking rule that was applied to the windows.
    """
    keep = 1 - masking.mask - masking.random
    likelihood = keep * (shown[:, None] == np.arange(BASES)) + masking.random / BASES
    posterior = p * np.where(shown[:, None] == MASK, 1.0, likelihood)
    return posterior / posterior.sum(axis=1, keepdims=True)


def _nats(p: Array, targets: Array) -> Array:
    return -np.log(p[np.arange(len(targets)), targets])


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the models to a run's training split and print the loss of each model on the run's validation windows."""
    parser = ProgramParser("context_model", __doc__)
    parser.add_argument("--config", required=True, help="configuration of a pretraining run (YAML)")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="overrides, such as data.shards=FOLDER"
    )
    options = parser.parse_args(arguments)
    config = load_config(options.config, options.overrides)
    shards = ShardSet.open(config.data.shards)
    input_ids, labels = validation_set(shards, config)
    train = training_bases(shards)
    print(f"{sum(map(len, train)):,} training bases; {len(labels):,} windows of split {config.validation.split!r}")
    model = fit(train, length=config.data.length, masking=run_masking(config))
    scores = score(model, input_ids, labels, run_masking(config))
    print(f"entropy of the validation bases at masked positions: {scores.entropy():.4f}\n")
    print(f"{'nats per base':16}{'held out':>10}{'[MASK]':>10}{'shown':>10}{'all':>10}{'accuracy':>10}")
    for name, row in scores.summary().items():
        label = "unigram baseline" if name == "composition" else name
        print(f"{label:16}{model.held_out[name]:10.4f}" + "".join(f"{value:10.4f}" for value in row.values()))
    print(f"\nbest on segments held out from the training bases: {model.best}")


if __name__ == "__main__":
    run_program(main)
