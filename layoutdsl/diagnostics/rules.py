"""The table of rules: every code that a diagnostic may carry, with the page that ``layoutdsl explain RULE`` prints.

One group per stage, in the order in which a spec meets them. To add a rule, add one entry to the group of its stage; nothing else lists codes.

Invariants: codes are unique slugs; a code is never reused for another meaning; an explanation has a wrong and a right line.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent, indent


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that a diagnostic can report. ``explanation`` is a short page in plain English, without the title."""

    code: str
    title: str
    explanation: str


def _rule(code: str, title: str, why: str, wrong: str = "", right: str = "") -> Rule:
    """``why``: what the rule guards and why. ``wrong`` and ``right``: the lines that show it."""
    parts = [" ".join(why.split())]
    if wrong:
        parts.append(f"Wrong:\n\n{_example(wrong)}")
    if right:
        parts.append(f"Right:\n\n{_example(right)}")
    return Rule(code, title, "\n\n".join(parts) + "\n")


def _example(text: str) -> str:
    return indent(dedent(text.strip("\n")), "    ")


# ---- files ------------------------------------------------------------------------------------------------------------------------------------------

FILES = (
    _rule(
        "file-missing",
        "there is no such file",
        "The path names nothing. Where a spec is named, the id of a bundled scheme serves as well as a path.",
        "layoutdsl validate spec/w8a8.linear.yaml",
        "layoutdsl validate specs/w8a8.linear.yaml",
    ),
    _rule(
        "file-unreadable",
        "the file cannot be read",
        "The path names a directory, a file without read permission, or a disk that fails. Nothing was read.",
        "layoutdsl validate specs/",
        "layoutdsl validate specs/w8a8.linear.yaml",
    ),
    _rule(
        "file-too-large",
        "the file is too large for a spec",
        """A spec of 256 KiB is not written by hand. The bound keeps a wrong path (a checkpoint, a log) from being parsed for minutes.""",
        "layoutdsl validate model.safetensors",
        "layoutdsl validate specs/w8a8.linear.yaml",
    ),
    _rule(
        "file-encoding",
        "the file is not UTF-8",
        """Specs are UTF-8, with or without a byte order mark. Guessing another encoding would show other characters than the author saw.""",
        "a file saved as Latin-1 or UTF-16",
        "the same file saved as UTF-8",
    ),
    _rule(
        "file-characters",
        "a character that may not stand in a spec",
        """Control characters and halves of surrogate pairs cannot be seen, so a line that holds one is not the line that one reads.
        YAML forbids them as well.""",
        "title: scales\\x00of the cache",
        "title: scales of the cache",
    ),
)

# ---- YAML -------------------------------------------------------------------------------------------------------------------------------------------

YAML = (
    _rule(
        "yaml-syntax",
        "the text is not YAML",
        """The file cannot be split into keys and values. Mostly an indentation that differs from its neighbours, a bracket or quote that stays
        open, or `: ` inside a text, which YAML takes for another key.""",
        "- scale[n]: 8 * sum(k: weight[n, k])",
        "- scale[n]: 8 * sum[k](weight[n, k])",
    ),
    _rule(
        "yaml-empty",
        "the file is empty",
        "There is no YAML document in the file, or only comments.",
        "# to be written",
        "layoutdsl: 1\nscheme: W8A8\n...",
    ),
    _rule(
        "yaml-tab",
        "a tab indents a line",
        "YAML forbids tabs in indentation, and programs disagree on how wide one is. Indent with spaces.",
        "params:\n\\tweight: int8[n, k]",
        "params:\n  weight: int8[n, k]",
    ),
    _rule(
        "yaml-alias",
        "anchors and aliases are not allowed",
        """An alias makes one text stand in two places: a message could not name the guilty line, and a few lines of nested aliases make a file of
        gigabytes. Templates (`each`) and case maps say the same in the language itself.""",
        "w13_weight: &w int8[e, n, k]\nw2_weight: *w",
        "<p>_weight: int8[e, n, k]",
    ),
    _rule(
        "yaml-tag",
        "tags are not allowed",
        "The kind of a value follows from how it is written; quote a text that looks like a number. A tag would say it a second time, or ask for code to run.",
        "default: !!str 0",
        'default: "0"',
    ),
    _rule(
        "yaml-key",
        "a key must be one line of text",
        "Keys are names, targets or conditions. A list or a mapping as a key, a block text, or no key at all means nothing here.",
        "? [n, k]\n: weight",
        "weight: int8[n, k]",
    ),
    _rule(
        "yaml-merge-key",
        "merge keys are not allowed",
        "`<<` copies entries out of sight of the reader, and YAML 1.2 has dropped it. Write the entries out, or build on another spec with `extends`.",
        "<<: *common",
        "extends: W8A8.linear",
    ),
    _rule(
        "yaml-documents",
        "a file is one document",
        "A second `---` starts another document, which would be read by nobody.",
        "layoutdsl: 1\n---\nlayoutdsl: 1",
        "two files",
    ),
    _rule(
        "yaml-duplicate-key",
        "a key stands twice in one mapping",
        "YAML programs silently keep the last of two equal keys, so half of what one reads would not count.",
        "weight: int8[n, k]\nweight: int8[k, n]",
        "weight: int8[n, k]",
    ),
    _rule(
        "yaml-depth",
        "nested too deeply",
        "No spec needs twenty levels. The bound keeps a broken or hostile file from using up the stack.",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]",
        "[gate, up]",
    ),
    _rule(
        "yaml-size",
        "too many nodes",
        "A spec has a few hundred keys and values. The bound of 20000 keeps time and memory in proportion.",
        "a list of a million numbers",
        "a size, or a condition",
    ),
    _rule(
        "yaml-cut",
        "YAML cuts an expression at its comma",
        """In a mapping or list in one line, YAML ends a text at `,`, so an expression with a comma falls apart without any error of YAML: here
        into the keys `unpacked` and `n)`. In block style, commas and brackets are part of the text.""",
        "- weight: {unpacked: transpose(k, n)}",
        "- weight:\n    unpacked: transpose(k, n)",
    ),
)

# ---- the shape of a spec ------------------------------------------------------------------------------------------------------------------------------

SHAPE = (
    _rule(
        "unsupported-language-version",
        "the file is written in another version of the language",
        """The first key says which version of the language the file is written in. Another version may give other meanings to what looks alike, so
        nothing else is checked.""",
        "layoutdsl: 2",
        "layoutdsl: 1",
    ),
    _rule(
        "unknown-key",
        "a key without meaning",
        "Keys are never ignored: a misspelt one would silently leave out what it was meant to say.",
        "parms:\n  weight: int8[n, k]",
        "params:\n  weight: int8[n, k]",
    ),
    _rule(
        "missing-key",
        "a key is missing",
        "The key has no default: leaving it out would leave a question open that only the author can answer. `layoutdsl schema` lists all keys.",
        "scheme: W8A8\ntitle: int8 weights",
        "scheme: W8A8\nlayer: linear\ntitle: int8 weights",
    ),
    _rule(
        "missing-value",
        "nothing is written where a value is needed",
        "YAML reads an empty value as null, which means nothing here. What is absent on purpose is written `none`.",
        "params:\n  weight:",
        "params:\n  weight: int8[n, k]",
    ),
    _rule(
        "wrong-kind",
        "a value of another kind is expected",
        """A list, a mapping, a text and a number are told apart as YAML 1.2 does: `1` is a number, `"1"` a text; `no`, `on` and `1:30` are texts.""",
        "version: {type: str, values: 1}",
        'version: {type: str, values: ["1"]}',
    ),
    _rule(
        "unknown-word",
        "a word that is not in the list",
        "In this place only a few words have a meaning.",
        "- scale[n]: scale[n]\n  as: param",
        "- scale[n]: scale[n]\n  as: parameter",
    ),
    _rule(
        "wrong-name",
        "a name of the wrong form",
        """Axes are one small letter, or a letter and a digit; their capitals are the extents. Cases and config entries are words in small letters, and
        a case may not be called like a key (`type`, `when`), for a case map could then not be told from attributes.""",
        "axes: {rows: output_size}",
        "axes: {n: output_size}",
    ),
    _rule(
        "leading-zero",
        "a number starts with a zero",
        "`010` is eight to YAML 1.1 and to C, ten to YAML 1.2 and a text to others. Write the number without the zero, or the text in quotes.",
        "default: 010",
        'default: 10\ndefault: "010"',
    ),
    _rule(
        "number-range",
        "a number too large",
        "Whole numbers have at most 19 digits, floats a finite value: nothing in a layout is larger.",
        "K % 100000000000000000000 == 0",
        "K % 128 == 0",
    ),
    _rule(
        "step-target",
        "an entry has one target",
        """A step binds one name (or names, in `forward`): one key that is not a modifier. Two such keys are two steps whose order YAML does not
        keep, or a misspelt modifier.""",
        "- weight: contiguous\n  scale: view [n]",
        "- weight: contiguous\n- scale: view [n]",
    ),
    _rule(
        "nested-block",
        "a block in a block",
        "Blocks (`when` with `do`) are one level deep, so that the condition of a step can be read in one look.",
        "- when: lists\n  do:\n    - when: main\n      do: [..]",
        "- when: lists and main\n  do: [..]",
    ),
    _rule(
        "accept-without-why",
        "`accept` needs a reason",
        "`accept` reproduces a known fault on purpose. Without `why`, the next reader will repair it.",
        "- weight: nz\n  accept: nz-group-size",
        "- weight: nz\n  accept: nz-group-size\n  why: the reference casts all the same",
    ),
)

# ---- expressions ------------------------------------------------------------------------------------------------------------------------------------

EXPRESSIONS = (
    _rule(
        "expression-syntax",
        "an expression that cannot be read",
        """Types, pipelines and expressions have one grammar, close to Python's, with these differences: `/` divides, `//` and `%` make digits; `|`
        separates stages and lanes; a sum is `sum[k](..)`; `and`, `or`, `not` are words; comparisons are not chained; strings have no escapes.""",
        "- bias[n]: sum(k, weight[n, k])",
        "- bias[n]: sum[k](weight[n, k])",
    ),
    _rule(
        "expression-depth",
        "an expression too long or too deep",
        "Expressions have at most 4000 characters, 40 nested brackets and 60 nested operations. A part that is worth a name gets one, in `let` or in a step.",
        "a sum of a hundred terms",
        "two sums with names",
    ),
    _rule(
        "expression-quoting",
        "an expression hidden in a quoted or block text",
        """Expressions are read where they stand, so that messages point at the right character. A text with escapes or doubled quotes, or a `|` block, is not
        the text that YAML makes of it. A plain text needs no quotes, and may go on in the next line.""",
        "ct: 'quant_method == ''compressed-tensors'''",
        'ct: quant_method == "compressed-tensors"',
    ),
)

# ---- all --------------------------------------------------------------------------------------------------------------------------------------------

GROUPS: dict[str, tuple[Rule, ...]] = {
    "files": FILES,
    "yaml": YAML,
    "shape": SHAPE,
    "expressions": EXPRESSIONS,
}

RULES: dict[str, Rule] = {rule.code: rule for group in GROUPS.values() for rule in group}
