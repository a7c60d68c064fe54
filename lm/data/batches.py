"""Batches as a pure function of (seed, step).

Rows are visited by one pseudo-random permutation per epoch, evaluated index by index, so there is
no state to save: any step on any number of hosts costs the same and gives the same global batch.
"""

import numpy as np

ROUNDS = 8
AHEAD = 2**24  # tokens that a source is told of beforehand


def permute(index, size: int, key: np.ndarray) -> np.ndarray:
    """The image of each index under a permutation of range(size), chosen by `key`.

    A balanced Feistel network over the next power of four, walked until it lands below `size`
    (Black & Rogaway 2002, "Ciphers with arbitrary finite domains"; cycle walking). Integer
    arithmetic only: the same on every machine and release, unlike a library's shuffle.

    Args:
      index: (n,) integers in [0, size).
      size: at most 2^62.
      key: uint64, (n,) or one for all.

    Returns:
      (n,) int64.
    """
    out = np.array(index, np.uint64)
    assert (out < size).all(), "an index outside the range may never come back into it"
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    key = np.broadcast_to(np.asarray(key, np.uint64), out.shape)
    round_keys = [_mix(key + np.uint64(round_number)) for round_number in range(ROUNDS)]
    walking = np.arange(out.size)
    while walking.size:
        left, right = out[walking] >> half, out[walking] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key[walking]) & mask)
        out[walking] = (left << half) | right
        walking = walking[out[walking] >= size]
    return out.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scrambles 64 bits; the output function of SplitMix64 (Steele, Lea & Flood 2014).

    Of an array, because numpy warns where a scalar wraps around, as is meant here.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Mixture:
    """Several sources read in fixed proportions, as one source of rows.

    The source of each sequence follows from its rank in the endless stream alone. Among the first
    n sequences, for every n, source k has n weight_k of them to within half the number of sources;
    so does every batch, to within twice that. (Drawing sources at random would be off by sqrt(n).)
    """

    TOTAL = 2**24  # weights are rounded to this many parts, which keeps all arithmetic in integers

    def __init__(self, sources: list, weights: list[float]):
        """`weights`: positive, any scale."""
        if len(sources) != len(weights) or not all(0 < w < float("inf") for w in weights):
            raise ValueError(f"weights = {weights}: one positive number for each source")
        self.sources = sources
        self.sizes = [len(source) for source in sources]
        share = np.cumsum(np.asarray(weights, float)) / sum(weights)
        self._upto = [round(s * self.TOTAL) for s in share]
        if min(np.diff([0, *self._upto])) < 1:
            raise ValueError(f"weights = {weights}: the smallest is under 2^-24 of the total")

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, index) -> np.ndarray:
        """Rows by their place in the concatenation of all sources."""
        ids = np.asarray(index, np.int64)
        start, rows = np.cumsum([0, *self.sizes]), None
        for k, source in enumerate(self.sources):
            mine = (ids >= start[k]) & (ids < start[k + 1])
            if mine.any():
                found = source[ids[mine] - start[k]]
                if rows is None:
                    rows = np.empty((*ids.shape, found.shape[-1]), found.dtype)
                rows[mine] = found
        return rows

    @property
    def ahead(self) -> bool:
        return any(getattr(source, "ahead", False) for source in self.sources)

    def expect(self, ids: np.ndarray) -> None:
        """As of the sources that fetch ahead."""
        start = np.cumsum([0, *self.sizes])
        for k, source in enumerate(self.sources):
            if getattr(source, "ahead", False):
                mine = (ids >= start[k]) & (ids < start[k + 1])
                source.expect(ids[mine] - start[k])

    def assign(self, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For ranks (n,): which source each comes from, and its rank within that source.

        Of the first r sequences that sources 0..k share, round(r W_{k-1} / W_k) belong to sources
        0..k-1 (W are cumulative weights); peeling off the last source repeatedly decides all.
        """
        which, local = np.zeros_like(rank), np.asarray(rank).copy()
        for k in range(len(self.sources) - 1, 0, -1):
            below, upto = self._upto[k - 1], self._upto[k]
            before = (2 * local * below + upto) // (2 * upto)
            after = (2 * (local + 1) * below + upto) // (2 * upto)
            undecided = which == 0
            last = undecided & (after == before)
            local = np.where(last, local - before, np.where(undecided, before, local))
            which[last] = k
        return which, local


class Batches:
    """`batches(step)` is (B, T): sequences [step B, (step + 1) B) of an endless shuffled stream.

    Every epoch of a source is a fresh permutation of its rows; one that ends inside a batch is
    continued there by the next.
    """

    def __init__(self, source, batch_size: int, seed: int):
        """`source[ids]` gives rows (n, T) for integer ids (n,) in range(len(source))."""
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}: must be at least 1")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed = {seed}: must be in [0, 2^63)")
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self._mixture = source if isinstance(source, Mixture) else Mixture([source], [1.0])
        self._first, self._end = 0, batch_size  # of each batch, the rows this host reads
        self._told = 0  # steps before this one the source knows of

    def host_slice(self, process_index: int, process_count: int) -> "Batches":
        """The same batches, of which this host reads rows [p B/n, (p + 1) B/n)."""
        if self.batch_size % process_count:
            raise ValueError(
                f"batch_size = {self.batch_size}: not divisible by {process_count} processes"
            )
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index = {process_index}: must be in [0, {process_count})")
        part = Batches(self.source, self.batch_size, self.seed)
        local = self.batch_size // process_count
        part._first, part._end = process_index * local, (process_index + 1) * local
        return part

    def __call__(self, step: int) -> np.ndarray:
        """The batch of one step, (B, T)."""
        return self.block(step, 1)[0]

    def block(self, step: int, count: int) -> np.ndarray:
        """The batches of steps [step, step + count), (count, B, T)."""
        rows = self.source[self._read_at(step, count)]
        if self._mixture.ahead:
            self._look_ahead(step + count, rows.size // count)
        return rows.reshape(count, self._end - self._first, -1)

    def _look_ahead(self, step: int, tokens: int) -> None:
        """Tells the source which rows the next AHEAD tokens are, each once; a step has `tokens`."""
        end = step + max(1, AHEAD // tokens)
        start = self._told if step <= self._told <= end else step
        self._told = end
        if start < end:
            self._mixture.expect(self._read_at(start, end - start))

    def _read_at(self, step: int, count: int) -> np.ndarray:
        """The rows of the source that this host reads for steps [step, step + count)."""
        steps = np.arange(step, step + count, dtype=np.int64)
        rank = steps[:, None] * self.batch_size + np.arange(self._first, self._end)
        return self._row_ids(rank.reshape(-1))

    def _row_ids(self, rank: np.ndarray) -> np.ndarray:
        """Which row of the source stands at each rank of the endless stream."""
        which, local = self._mixture.assign(rank)
        ids, start = np.empty_like(rank), 0
        for k, size in enumerate(self._mixture.sizes):
            mine = which == k
            epoch, index = np.divmod(local[mine], size)
            key = _mix(np.array([self.seed], np.uint64))
            for part in (np.uint64(k), epoch.astype(np.uint64)):
                key = _mix(key ^ part)
            ids[mine] = start + permute(index, size, key)
            start += size
        return ids
