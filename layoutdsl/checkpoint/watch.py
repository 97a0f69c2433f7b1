"""What single values of a stored tensor can have wrong, counted while its bytes go by: no numbers, zero or tiny scales, integers out of range, constant rows.

Between ``values``, which shows it every block, and the findings.

Invariants: a block is looked at with a few operations over whole arrays; closer only where it holds something.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from layoutdsl.checkpoint.model import StoredTensor
from layoutdsl.checkpoint.numbers import Array
from layoutdsl.diagnostics import Diagnostic
from layoutdsl.diagnostics.model import Severity
from layoutdsl.ir.dtypes import ELEMENTS, STORAGES, Dtype, carriage_of
from layoutdsl.plan.model import TensorType

SAMPLES = 16
"""Places of a row that are compared before a row is: two neighbours are often equal, so many hardly ever."""


@dataclass(slots=True)
class Count:
    """How many values are so, and the index of the first, in the stored order."""

    number: int = 0
    first: int = 0

    def add(self, found: Array, before: int) -> None:
        number = int(np.count_nonzero(found))
        if number and not self.number:
            self.first = before + int(found.reshape(-1).argmax())
        self.number += number


@dataclass(slots=True)
class Watch:
    """One tensor. kind: its bound type, if it has one. scale: is it multiplied with a weight. promised: the spec's ``range``, or ""."""

    tensor: StoredTensor
    kind: TensorType | None = None
    scale: bool = False
    promised: str = ""
    counts: dict[str, Count] = field(default_factory=dict)
    extremes: list[int] = field(default_factory=list)
    _seen: int = 0

    def see(self, raw: Array) -> None:
        """The next bytes of the tensor."""
        element, words = self._elements(raw)
        if element is None:
            return
        if element.kind == "float":
            self._floats(words, element)
        elif element.kind == "scale":
            self._exponents(words)
        elif self._by_value:
            self._integers(words)
        self._seen += words.size

    @property
    def _by_value(self) -> bool:
        return self.kind is not None and carriage_of(self.kind.element, self.kind.storage, bool(self.kind.lanes)) == "value"

    def _elements(self, raw: Array) -> tuple[Dtype | None, Array]:
        """The elements as words without sign; None where every pattern of bits is right, or nothing is known."""
        storage = STORAGES.get(self.tensor.dtype)
        if storage is None:
            return None, raw
        words = raw.view(f"<u{storage.bits // 8}")
        if self.kind is None or self.kind.lanes:
            return (storage if self.kind is None else None), words
        element = ELEMENTS[self.kind.element]
        if carriage_of(self.kind.element, self.kind.storage, lanes=False) != "bits" or element.bits % 8 or self.kind.element == "opaque":
            return (None if self.kind.element == "opaque" else storage), words
        if element.bits < storage.bits:
            self._extension(words, element.bits, storage.bits)
        return element, words.astype(f"<u{element.bits // 8}", copy=False)

    # -- what may be wrong

    def _count(self, what: str, found: Array) -> None:
        self.counts.setdefault(what, Count()).add(found, self._seen)

    def _floats(self, words: Array, element: Dtype) -> None:
        width, scaling = element.bits, self.scale or bool(self.promised)
        infinite = 0x7F if width == 8 else ((1 << element.exponent) - 1) << element.mantissa
        # Among words without sign, negative ones and those that are no numbers are the largest, zero and denormal ones the smallest.
        usual = scaling and words.max(initial=0) < infinite and words.min(initial=infinite) >= 1 << element.mantissa
        if usual and self.promised != "power_of_two":
            return
        magnitude = words & words.dtype.type((1 << (width - 1)) - 1)
        if magnitude.size and magnitude.max() >= infinite:
            self._count("nan", magnitude > infinite if width > 8 else magnitude == infinite)
            self._count("inf", (magnitude == infinite) & (width > 8))
        if not scaling:
            return
        self._count("zero", magnitude == 0)
        self._count("denormal", (magnitude > 0) & (magnitude < 1 << element.mantissa))
        self._count("negative", (words > magnitude) & (magnitude > 0))
        if self.promised == "power_of_two":
            self._count("fraction", (magnitude & magnitude.dtype.type((1 << element.mantissa) - 1) != 0) & (magnitude < infinite))

    def _exponents(self, words: Array) -> None:
        self._count("nan", words == 255)
        if self.scale:
            self._count("smallest", words == 0)

    def _integers(self, words: Array) -> None:
        assert self.kind is not None
        low, high = self.bounds
        if high - low == (1 << (8 * words.itemsize)) - 1:
            return  # whatever is stored is one
        numbers = words.view(words.dtype.str.replace("u", "i")) if STORAGES[self.kind.storage].kind == "int" else words
        if numbers.size and (numbers.min() < low or numbers.max() > high):
            self._count("outside", (numbers < low) | (numbers > high))
            self.extremes += [int(numbers.min()), int(numbers.max())]

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest integer that may be stored."""
        assert self.kind is not None
        element = ELEMENTS[self.kind.element]
        low = 0 if element.kind == "uint" else -(1 << (element.bits - 1))
        return low + self.kind.excess, low + (1 << element.bits) - 1 + self.kind.excess

    def _extension(self, words: Array, bits: int, width: int) -> None:
        """Upper bits that are not what the type says: its sign, or zeros."""
        assert self.kind is not None
        low = words & words.dtype.type((1 << bits) - 1)
        sign = (low >> words.dtype.type(bits - 1)) * words.dtype.type((1 << (width - bits)) - 1) if self.kind.extension == "sign" else low & words.dtype.type(0)
        self._count("extension", words >> words.dtype.type(bits) != sign)

    # -- findings

    def findings(self) -> list[Diagnostic]:
        short, held = self.tensor.name.rpartition(".")[2], {what for what, count in self.counts.items() if count.number}
        found: list[Diagnostic] = []
        if held & {"nan", "inf"}:
            words = " and ".join(word for what, word in (("nan", "NaN"), ("inf", "infinities")) if what in held)
            found.append(self._found("values-not-finite", f"`{short}` holds {words}", held & {"nan", "inf"}, "write it again: no layer computes with these"))
        if self.promised == "positive" and held & {"zero", "negative"}:
            found.append(self._found("values-range", f"`{short}` holds values that are not above zero", held & {"zero", "negative"}, "scales are above zero"))
        elif "zero" in held:
            found.append(
                self._found("scale-value", f"a scale in `{short}` is zero", {"zero"}, "what it scales is lost: write the largest magnitude / 127, or 1")
            )
        if "negative" in held and self.promised != "positive":
            help_ = "writers make scales of magnitudes, so this is most likely another tensor's bytes"
            found.append(self._found("scale-value", f"a scale in `{short}` is negative", {"negative"}, help_, "warning"))
        if "denormal" in held:
            help_ = "it has lost digits, and may count as zero on the device: is the exponent right, and the dtype"
            severity: Severity = "warning" if self.tensor.dtype == "float16" else "error"
            found.append(self._found("scale-value", f"a scale in `{short}` is denormal", {"denormal"}, help_, severity))
        if "smallest" in held:
            help_ = "it is right for a block of zeros only"
            found.append(self._found("scale-value", f"a scale in `{short}` is 2**-127, the smallest that there is", {"smallest"}, help_, "warning"))
        if "fraction" in held:
            found.append(self._found("values-range", f"`{short}` holds values that are not powers of two", {"fraction"}, "the scheme has exponents there"))
        if "outside" in held:
            low, high = self.bounds
            message = f"`{short}` holds integers outside {low}..{high}"
            found.append(self._found("values-range", message, {"outside"}, "is it packed, or of more bits than the scheme says"))
        if "extension" in held:
            message = f"`{short}` holds words whose upper bits are not the {self.kind.extension if self.kind else ''} extension of the lower ones"
            found.append(self._found("values-range", message, {"extension"}, "the device reads the lower bits only: they must be all there is"))
        return found

    def _found(self, code: str, message: str, what: set[str], help_: str, severity: Severity = "error") -> Diagnostic:
        total = prod(self.tensor.shape)
        names = {"nan": "NaN", "inf": "infinite", "smallest": "the smallest", "outside": "outside", "fraction": "no power of two", "extension": "so"}
        notes = []
        for kind in sorted(what):
            count = self.counts[kind]
            place = ", ".join(str(int(i)) for i in np.unravel_index(count.first, self.tensor.shape)) if self.tensor.shape else ""
            notes.append(f"{count.number} of {total} are {names.get(kind, kind)}, the first at [{place}]")
        if "outside" in what:
            notes.append(f"the values go from {min(self.extremes)} to {max(self.extremes)}")
        return Diagnostic(code=code, message=message, severity=severity, where=self.tensor.name, notes=tuple(notes), helps=(help_,))


# ---- rows -----------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ConstantRows:
    """Rows of a weight that hold one value. lanes: of how many neighbouring rows a word holds the elements, else 1; bits: of such an element."""

    tensor: StoredTensor
    lanes: int = 1
    bits: int = 8
    rows: int = 0
    constant: list[int] = field(default_factory=list)
    number: int = 0
    values: set[int] = field(default_factory=set)

    def see(self, words: Array) -> None:
        """The next rows: words without sign [rows, words of a row]."""
        columns = words.shape[1]
        if columns >= SAMPLES:
            sample = words[:, :: columns // SAMPLES]
            differ = np.bitwise_or.reduce(sample ^ sample[:, :1], axis=1)
            for lane in range(self.lanes):
                mask = words.dtype.type(((1 << self.bits) - 1) << (lane * self.bits)) if self.lanes > 1 else ~words.dtype.type(0)
                for row in np.flatnonzero(differ & mask == 0):
                    self._row(words[row] & mask, self.rows + int(row) * self.lanes + lane, lane * self.bits if self.lanes > 1 else 0)
        self.rows += words.shape[0] * self.lanes

    def _row(self, values: Array, row: int, shift: int) -> None:
        """A row whose samples are equal."""
        if (values == values[0]).all():
            self.number += 1
            self.values.add(int(values[0]) >> shift)
            if len(self.constant) < 4:
                self.constant.append(row)

    def findings(self, what: str) -> list[Diagnostic]:
        """what: the layer or expert, for the message."""
        short = self.tensor.name.rpartition(".")[2]
        if not self.number:
            return []
        if self.number == self.rows and len(self.values) == 1:
            message, note = f"`{short}` holds one value: {what} was not written", f"all {self.rows} rows hold it"
        else:
            message = f"a row of `{short}` holds one value"
            note = f"{self.number} of {self.rows} rows do: {', '.join(map(str, self.constant))}{', ...' if self.number > len(self.constant) else ''}"
        zeros = self.values == {0}
        help_ = "such outputs are always 0: right only for padding, or what was pruned" if zeros else "was it written"
        return [Diagnostic(code="values-constant", message=message, where=self.tensor.name, notes=(note,), helps=(help_,))]


def constant_rows(tensor: StoredTensor, kind: TensorType, row_axis: str) -> ConstantRows:
    lanes = [lane for lane in kind.lanes if lane.axis == row_axis]
    count: Any = lanes[0].ext if lanes else 1
    return ConstantRows(tensor, count, kind.slot_bits)
