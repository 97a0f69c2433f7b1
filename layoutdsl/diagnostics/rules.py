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

# ---- names and config -------------------------------------------------------------------------------------------------------------------------------

NAMES = (
    _rule(
        "axis-name",
        "an axis is one small letter",
        """Axes are written a hundred times and must not be taken for tensors or config: one small letter, perhaps with a digit. The capital is the
        extent, so `n` has `N` indices.""",
        "axes: {row: output_size}",
        "axes: {n: output_size}",
    ),
    _rule(
        "template-unknown",
        "a template without its list",
        """`<p>` in a name stands for the words of the list `p` of `each`, one member after the other. Without that list the name would stay as it is written,
        once for all members.""",
        "each: {q: [w13, w2]}\nparams:\n  <p>_weight: int8[e, n, k]",
        "each: {p: [w13, w2]}\nparams:\n  <p>_weight: int8[e, n, k]",
    ),
    _rule(
        "name-reserved",
        "a name that means something already",
        """Words, ops, dtypes, sizes and shared config names mean the same in every spec. A tensor called `pack` or a case called `sum` would make a line
        that two readers read differently.""",
        "params:\n  pack: int8[n, k]",
        "params:\n  packed_weight: int8[n, k]",
    ),
    _rule(
        "name-clash",
        "one name for two things",
        """Config, axes, extents, `let`, cases, members and tensors share one namespace, without shadowing: a name has one meaning in the whole file.""",
        "axes: {n: output_size}\nlet:\n  n: K // 2",
        "axes: {n: output_size}\nlet:\n  half: K // 2",
    ),
    _rule(
        "name-unknown",
        "a name that is declared nowhere",
        """Conditions, sizes and calls read config, cases, members, extents, `let`, dtypes and the sizes of the layer; a call also reads the layer's tensors
        and its inputs. Nothing else has a value. Mostly a slip of the pen, or a case that was renamed in one place only.""",
        "- weight: nz when nz_mode != 0",
        "- weight: nz when weight_nz_mode != 0",
    ),
    _rule(
        "not-an-axis",
        "this is not an axis",
        """Between brackets stand indices, not sizes. `k//32` runs over all groups of 32, the last of which may be partial; `K//32` is a number, and rounds
        down. Counting groups with a floor is the most repeated bug of this field (a model with K = 4304 lost its last group), so it cannot be written.""",
        "weight_scale: float32[n, K//32]",
        "weight_scale: float32[n, k//32]",
    ),
    _rule(
        "not-a-digit",
        "this is not an index",
        """An entry between brackets is an axis, a quotient, a remainder, both, or `0` for a dim of one element. Digits are what proofs about layouts are
        made of; a sum or a product of indices is none.""",
        "weight: int8[n+1, k]",
        "weight: int8[n, k]",
    ),
    _rule(
        "divisor-not-a-product",
        "a divisor that cannot be reasoned about",
        """Divisors are products of names and positive numbers. Divisibility by a sum or a difference of sizes cannot be proved for all sizes, so nothing
        that follows from it could be either.""",
        "weight_scale: float32[n, k//(K-1)]",
        "weight_scale: float32[n, k//group_size]",
    ),
    _rule(
        "not-a-condition",
        "a condition is true or false",
        """`when`, `if`, cases and requirements need a truth value. Numbers, texts and dtypes have none of their own: 0, "" and none are told apart here.""",
        "- weight: nz when weight_nz_mode",
        "- weight: nz when weight_nz_mode != 0",
    ),
    _rule(
        "not-an-integer",
        "a size is an integer",
        "Extents, divisors and comparisons by order need integers; a text, a dtype or `none` has no size. A config entry with `none` needs a case for it.",
        "let:\n  g: version // 2",
        "let:\n  g: group_size // 2",
    ),
    _rule(
        "not-comparable",
        "two values of different kinds are compared",
        "A size never equals a text or a dtype, so the condition would hold nowhere, silently.",
        'when: group_size == "256"',
        "when: group_size == 256",
    ),
    _rule(
        "inexact-division",
        "`/` of sizes does not say how it rounds",
        "Sizes are integers. `//` rounds down, `cdiv(a, b)` up; which of the two is meant is the difference between a lost and a partial group.",
        "let:\n  groups: K / 32",
        "let:\n  groups: cdiv(K, 32)",
    ),
    _rule(
        "size-operator",
        "an operator that sizes do not have",
        """Sizes have `+ - * // %`, comparisons and a few functions, `cdiv(a, b)` among them. Shifts and bit masks belong into index math, and nothing is
        divided by zero.""",
        "let:\n  half: K >> 1",
        "let:\n  half: K // 2",
    ),
    _rule(
        "size-function",
        "a function of sizes without a value",
        """A size is at least 1, and the proofs rely on that. So `min` wants arguments that cannot be less, and `near_square` of a number wants one that has
        two factors which are both odd or both even: 2, 6 and 10 have none. For a size that only the layer knows, the same is found when the plan is bound.""",
        "let:\n  block: min(K // 8, 256)",
        "let:\n  block: min(K, 256)",
    ),
    _rule(
        "size-condition",
        "a condition that depends on the size of a layer",
        """One plan serves all layers of a model: what happens is decided by config, and sizes stay symbolic. A condition that is true for one layer and
        false for the next has no answer when the plan is made. Guessing a layout from shapes is a known source of wrong weights.""",
        "- weight: contiguous when N == K",
        "- weight: contiguous when weight_nz_mode != 0",
    ),
    _rule(
        "index-as-size",
        "a tensor is read where a size is needed",
        "Sizes and conditions are known before any byte is loaded, and the content of a tensor is not.",
        "require:\n  - sum[k](weight[n, k]) == 0",
        "require:\n  - N % 8 == 0",
    ),
    _rule(
        "let-cycle",
        "a definition that needs itself",
        "A name of `let` may use other names of `let`, but in the end each has to rest on config or sizes.",
        "let:\n  a: b * 2\n  b: a // 2",
        "let:\n  a: b * 2\n  b: group_size // 2",
    ),
    _rule(
        "extent-later",
        "an extent is used above its axis",
        "Axes are declared from top to bottom, and an extent may use those above it. Read in another order, two axes could need each other.",
        "axes:\n  h: N // 4\n  n: output_size",
        "axes:\n  n: output_size\n  h: N // 4",
    ),
    _rule(
        "extends-cycle",
        "specs extend each other in a circle",
        "A spec adds to one that stands on its own in the end. Eight levels are more than anybody can keep in mind.",
        "extends: W8A8.linear  # in the spec that W8A8.linear extends",
        "extends: W8A8.linear",
    ),
    _rule(
        "argument-count",
        "too many or too few arguments",
        "Functions and ops take their arguments in one order, none of them by default unless their page says so (`layoutdsl explain` with the name of the op).",
        "- weight: pack(int32)",
        "- weight: pack(n, int32)",
    ),
    _rule(
        "argument-kind",
        "an argument of the wrong kind",
        "An op's arguments are dims, axes, dtypes, sizes, numbers or one of a few words. Taking one for the other would hide a slip.",
        "- weight: pack(int32, n)",
        "- weight: pack(n, int32)",
    ),
    _rule(
        "unknown-value",
        "a value that is not in the list",
        """Consumers, devices, types of config and ranges are closed lists: what is not in them does not exist, or does not exist yet, and must not be
        accepted silently.""",
        "holds: {consumer: [vllm-ascend-0.15], device: [a2]}",
        "holds: {consumer: [vllm-ascend-0.16], device: [a2]}",
    ),
    _rule(
        "config-type",
        "a config value of another type",
        """A config entry is int, bool or str, and its default and values are too. `"0"` and `0` are different things in a checkpoint's description, and
        have been mixed up there.""",
        "version: {type: str, default: 0}",
        'version: {type: str, default: "0"}',
    ),
    _rule(
        "config-unknown",
        "no config of this name",
        "A misspelt name would silently leave the default in force. `spec.config_names` lists what a spec reads.",
        'compile_spec("W4A8_DYNAMIC.linear", config={"groupsize": 64})',
        'compile_spec("W4A8_DYNAMIC.linear", config={"group_size": 64})',
    ),
    _rule(
        "config-value",
        "a config value that the spec does not hold for",
        "The spec was written and proved for a closed list of values, or for numbers from a least one on. Another value may need another layout.",
        'config={"consumer": "vllm-ascend-0.11"}',
        'config={"consumer": "vllm-ascend-0.23"}',
    ),
    _rule(
        "config-missing",
        "a config value is needed and has no default",
        "The spec holds for several values and prefers none of them, so the caller has to say which one it is.",
        'compile_spec("W4A8_DYNAMIC.linear")',
        'compile_spec("W4A8_DYNAMIC.linear", config={"consumer": "vllm-ascend-0.23"})',
    ),
)

# ---- cases ------------------------------------------------------------------------------------------------------------------------------------------

CASES = (
    _rule(
        "facet-not-exhaustive",
        "no case holds for some configuration",
        """In every configuration that the spec holds for, one case of each facet must be the case. A forgotten value would leave parameters and steps out
        without a word.""",
        'source:\n  packed: version == "1.0.0"',
        'source:\n  packed:   version == "1.0.0"\n  unpacked: otherwise',
    ),
    _rule(
        "case-unreachable",
        "a case that never is the case",
        "In a facet, the first case that holds is the case. Behind `otherwise`, which always holds, none is ever looked at.",
        'plain:  otherwise\npacked: version == "1.0.0"',
        'packed: version == "1.0.0"\nplain:  otherwise',
    ),
    _rule(
        "require-excludes-all",
        "no configuration is left",
        """Requirements that contradict each other exclude every configuration. Such a spec would be right in every case that there is, and serve nobody.""",
        "require:\n  - group_size == none\n  - group_size == 32",
        "require:\n  - group_size == 32",
    ),
    _rule(
        "open-world",
        "`otherwise` over consumers or devices",
        """`otherwise` takes in releases and chips that do not exist yet. When one appeared, a spec that said `main: otherwise` took it without a word and
        was wrong in one tensor. Listed by name, the next one is an error until somebody has looked.""",
        'seed: consumer == "vllm-ascend-0.16"\nmain: otherwise',
        'seed: consumer == "vllm-ascend-0.16"\nmain: consumer == "vllm-ascend-main"',
    ),
    _rule(
        "case-overlap",
        "two cases of a case map hold at once",
        "Each entry of a case map says what holds there; where two do, the order of the lines would decide, which nobody reads.",
        "packed:  bitcast(int32)\nnot row: pack(n, int32)",
        "packed:             bitcast(int32)\nunpacked and not row: pack(n, int32)",
    ),
    _rule(
        "case-missing",
        "no case gives this a value",
        "A parameter or a step may be missing in some cases; a size may not, since types are made of it.",
        "let:\n  g: {grouped: group_size}",
        "let:\n  g: {grouped: group_size, channel: K}",
    ),
    _rule(
        "each-not-parallel",
        "the word lists of `each` differ in length",
        "The lists are read side by side: the first words are the first member, the second words the second.",
        "each: {p: [w13, w2], w: [w1]}",
        "each: {p: [w13, w2], w: [w1, w2]}",
    ),
    _rule(
        "too-many-cases",
        "too many combinations of cases",
        """Every reachable combination is proved on its own. Thousands of them are a sign of conditions that belong into one facet, or of values that
        `require` should exclude.""",
        "ten independent facets of three cases",
        "two or three facets, and `require` for what never occurs",
    ),
    _rule(
        "accept-unused",
        "an `accept` that accepts nothing",
        """`accept` reproduces a known fault on purpose. When nothing is refused any more, or its slug names no rule, it would silently accept the next
        fault.""",
        "- weight: contiguous\n  accept: nz-group-size\n  why: the reference casts all the same",
        "- weight: contiguous",
    ),
    _rule(
        "requirement-failed",
        "a requirement does not hold",
        """`require` says for which sizes and config the spec was proved. Where it fails, the proofs say nothing, and the layout would be silently wrong.""",
        "output_size = 100 for `N % 8 == 0`",
        "output_size = 104",
    ),
)

# ---- types ------------------------------------------------------------------------------------------------------------------------------------------

TYPES = (
    _rule(
        "not-a-dtype",
        "this is not a dtype",
        """Elements are torch's dtypes and ours: int4, uint4, e2m1, e4m3, e8m0, opaque. A name of config or `let` may stand for one.""",
        "weight: s4[n, k] in int8[n, k]",
        "weight: int4[n, k] in int8[n, k]",
    ),
    _rule(
        "not-a-storage",
        "torch has no such dtype",
        "What a number means (the element) and what holds its bytes (the storage) are two things; only torch's dtypes can hold bytes.",
        "weight: int4[n, k] in uint4[n, k]",
        "weight: int4[n, k] in int8[n, k]",
    ),
    _rule(
        "storage-missing",
        "the type does not say what stores the element",
        "torch has no 4-bit dtypes, so a file holds them in another one: one per byte, two per byte, eight per int32. The type must say which.",
        "weight: int4[n, k]",
        "weight: int4[n, k] in int8[n, k//2 | k%2]",
    ),
    _rule(
        "storage-too-narrow",
        "the storage is narrower than the element",
        "A storage holds all bits of what it stores. A narrower one loses them, which is a `cast` and a step of its own.",
        "scale: float32[n] in int16[n]",
        "scale: float32[n] in int32[n]",
    ),
    _rule(
        "extension-missing",
        "nothing says how the upper bits are filled",
        """The bits of an element in a wider integer leave bits over: zeros, or copies of the sign bit. The two differ for negative values, and kernels read
        all bits.""",
        "scale: float32[n] in int64[n]",
        "scale: float32[n] in zext int64[n]",
    ),
    _rule(
        "extension-unneeded",
        "nothing is extended here",
        "`zext` and `sext` say how the bits of an element are widened. Where the storage holds the value itself, or several elements, no bit is left over.",
        "weight: int4[n, k] in sext int8[n, k]",
        "weight: int4[n, k] in int8[n, k]",
    ),
    _rule(
        "lanes-do-not-fill",
        "the lanes do not fill the storage",
        """Behind `|` stands the lane number. All lanes of one storage element together have exactly its bits: two int4 in an int8, eight in an int32.""",
        "weight: int4[n, k] in int8[n, k//4 | k%4]",
        "weight: int4[n, k] in int8[n, k//2 | k%2]",
    ),
    _rule(
        "digits-not-a-chain",
        "the digits of an axis do not fit together",
        """The digits of one axis are like those of a number: each starts where the one below it ends. An overlap stores an element twice, a gap loses it,
        and divisors of which neither divides the other have no order.""",
        "weight: int8[n, k] in int8[n, k//64, k%32]",
        "weight: int8[n, k] in int8[n, k//64, k%64]",
    ),
    _rule(
        "digits-differ",
        "the layout does not hold what the element list says",
        """On the left stand the indices that an element has, in the layout those that it is found by: every axis of one side stands on the other, down to
        the same digit. A lane along another axis than its dim is the usual slip.""",
        "weight: int4[n, k] in int8[n//2, k | k%2]",
        "weight: int4[n, k] in int8[n//2, k | n%2]",
    ),
    _rule(
        "digits-do-not-cover",
        "the layout ends before the axis does",
        "The top digit of the layout stops below the extent, so the last indices are stored nowhere.",
        "weight: int8[n, k] in int8[n, k%64]",
        "weight: int8[n, k] in int8[n, k//64, k%64]",
    ),
    _rule(
        "layout-has-holes",
        "the layout has places that hold no element",
        """Where an extent is not a multiple of what is stored together, the last storage element is partly empty. Either the sizes are multiples
        (`require`), or the type says what fills the holes (`pad`).""",
        "weight: int4[n, k] in int8[n, k//2 | k%2]",
        "require:\n  - K % 2 == 0",
    ),
    _rule(
        "over-dims-differ",
        "`over` lists other dims",
        """`over` says in which order the same dims lie in memory, slowest first. It neither splits nor drops one.""",
        "weight: int8[n, k] in int8[k, n] over [n]",
        "weight: int8[n, k] in int8[k, n] over [n, k]",
    ),
    _rule(
        "format-unknown",
        "no memory format of this name",
        "Memory formats are plain (`nd`) and FRACTAL_NZ (`nz`, or `nz(64)` with the width of a block in bytes).",
        "weight: int8[n, k] over zn[n, k]",
        "weight: int8[n, k] over nz[n, k]",
    ),
    _rule(
        "segments-differ",
        "the parts are not the axis",
        """`segments` names the parts of an axis, in the order in which they lie one behind the other. A list of names means equal parts, so their number
        divides the extent for all sizes; a mapping gives every part its size, and the sizes add up to the extent.""",
        "segments: {n: [q, k, v]}",
        "segments: {n: {q: 4096, k: 1024, v: 1024}}",
    ),
    _rule(
        "segment-straddled",
        "a stored unit belongs to two parts",
        """Loaders write gate and up, or q, k and v, one behind the other into one tensor. Where several values of the axis lie in one word or share one
        scale, the boundary between two parts must not fall into it: the unit divides every part.""",
        'params: {weight: "int4[n, k] in int8[n//2, k | n%2]"}',
        "require: [N % 4 == 0]",
    ),
    _rule(
        "shard-none-tp",
        "a whole tensor whose size depends on the ranks",
        """`shard: none` means that every rank loads all of it, so it has one size whatever `tp_size` is. A tensor with as many columns as belong to this rank
        is split, and its digits say how.""",
        "w2_scale_bias: {type: float32[e, n, k//chunk], shard: none}",
        "w2_scale_bias: float32[e, n, k//chunk]",
    ),
)

# ---- steps ------------------------------------------------------------------------------------------------------------------------------------------

STEPS = (
    _rule(
        "op-unknown",
        "no op of this name",
        """There are about twenty ops; `layoutdsl explain` with a name shows each. Several of torch's are missing on purpose: `squeeze` without an axis
        depends on the size (it drops the experts of a layer with one expert), `reshape` with -1 guesses. `view [dims]` says what comes out.""",
        "- weight_scale: squeeze",
        "- weight_scale: view [n]",
    ),
    _rule(
        "tensor-unknown",
        "no tensor of this name",
        "A step reads what is declared in `params` or made by an earlier step.",
        "- wieght: contiguous",
        "- weight: contiguous",
    ),
    _rule(
        "tensor-not-in-case",
        "the tensor does not exist in some case",
        """What is declared or made for some cases only can be read in those only. The same condition on both sides, or a case map on both, keeps them
        together.""",
        "- bias[n]: scale_bias[n]",
        "- bias[n]: scale_bias[n]\n  when: packed",
    ),
    _rule(
        "not-a-tensor",
        "this is a number, not a tensor",
        "Ops, index math and kernels with a layout take tensors; a number of the config has neither dims nor memory.",
        "- size: group_size | contiguous",
        "- size: group_size\n  as: value",
    ),
    _rule(
        "kind-missing",
        "a number needs `as: value`",
        """A target without an index is a pipeline on a tensor. A number for the layer (from config, or one element of a tensor) is meant by `as: value`,
        and a tensor that is computed has its indices on the left.""",
        "- size: group_size",
        "- size: group_size\n  as: value",
    ),
    _rule(
        "no-op",
        "a stage that changes nothing",
        """A cast to the dtype that is there already, a second format cast: either a condition is missing, or the author took the value for another one.
        What needs a cast in some cases only has a `when`.""",
        "- weight_scale: cast(float32)",
        "- weight_scale: cast(float32) when ct",
    ),
    _rule(
        "transpose-done",
        "the dims stand in this order already",
        """`transpose(k, n)` states the order that it produces: k before n. One that changes nothing is a second transpose, which would undo the first if it
        were a swap.""",
        "- weight: transpose(k, n) | transpose(k, n)",
        "- weight: transpose(k, n)",
    ),
    _rule(
        "dim-ambiguous",
        "several dims could be meant",
        "An axis that is split over several dims is no name for one of them; a dim is then named by its digit as it stands there.",
        "- scale: view [n, k//64, k%64] | transpose(k, n)",
        "- scale: view [n, k//64, k%64] | transpose(k//64, n)",
    ),
    _rule(
        "dim-missing",
        "the value has no such dim",
        "Movement names dims by their axes, not by numbers, so that it stays right when a tensor gets another dim; the name must be there.",
        "- weight_scale: transpose(e, n)",
        "- weight_scale: transpose(k, n)",
    ),
    _rule(
        "view-digits-differ",
        "`view` loses or invents a digit",
        """The same bytes are seen with other boundaries, so the digits must be the same. A split needs a proof that it leaves nothing over: 135 groups seen
        as pairs lose the last one, which real code did.""",
        "- scale: view [n, k//64, k//32%2]",
        "- scale: pad(k, 64, 0) | view [n, k//64, k//32%2]",
    ),
    _rule(
        "view-not-consecutive",
        "the new dim is not one run in memory",
        "A view copies nothing. Dims that lie apart in memory, as after a transpose, cannot become one; torch refuses it too, but only on the machine.",
        "- weight: transpose(k, n) | view [(k, n)]",
        "- weight: transpose(k, n) | contiguous | view [(k, n)]",
    ),
    _rule(
        "bitcast-by-value",
        "the bytes are not packed",
        """A bit view of another width joins or splits bytes. Where one small element fills a whole byte by value (an int4 in an int8), or bits are widened,
        joined bytes are no packed elements.""",
        "- weight: bitcast(int32)",
        "- weight: pack(n, int32)",
    ),
    _rule(
        "bitcast-not-fastest",
        "the last dim is not the fastest in memory",
        """A wider bit view joins neighbours of the last dim, which must be neighbours in memory. After `transpose` they are not: torch refuses with
        `self.stride(-1) must be 1`.""",
        "- weight: transpose(k, n) | bitcast(int32)",
        "- weight: transpose(k, n) | contiguous | bitcast(int32)",
    ),
    _rule(
        "bitcast-indivisible",
        "a bit view that may leave bytes over",
        """A wider bit view joins several storage elements of the last dim, for all sizes only if their number is a multiple. The message names the fact
        that is missing; if it is about the wrong axis, the view stands before the transpose that it needs.""",
        "- weight: bitcast(int32)",
        "require:\n  - N % 8 == 0",
    ),
    _rule(
        "bitcast-splits-element",
        "a bit view cuts through an element",
        "A narrower bit view gives every new storage element whole elements. Half a float means nothing here.",
        "- scale: bitcast(int16)",
        "- scale: bitcast(int32)",
    ),
    _rule(
        "cast-of-bits",
        "`cast` reads values, and this holds bits",
        """`cast` changes values, `bitcast` and `bits` change types: two words, never one. An exponent (e8m0) copied to uint8 by value gives 0, 1, 2 for
        what was 126, 127, 128: real code did this.""",
        "- weight_scale: cast(uint8)",
        "- weight_scale: bitcast(uint8)",
    ),
    _rule(
        "cast-rounds",
        "a cast to an integer must say how it rounds",
        "Floats have nearest-even as their rounding. For integers, half the world truncates and half rounds, and the result differs by one.",
        "- quant[n]: int8(scale[n])",
        "- quant[n]: rint(int8, scale[n])",
    ),
    _rule(
        "cast-target",
        "no arithmetic in this dtype",
        """A cast makes values of a dtype that can be computed with: integers of 8 to 64 bits, float16, bfloat16, float32, float64. Small elements are made
        by `pack` and `relayout`.""",
        "- weight: cast(int4)",
        "- weight: pack(n, int32)",
    ),
    _rule(
        "pack-axis-not-last",
        "`pack` along an axis that is not the last",
        """Several elements that share a storage element are neighbours along the last axis. The axis is named, so packing along k where n is meant is found
        here, and not in the answers of a model.""",
        "- weight: pack(n, int32)",
        "- weight: transpose(k, n) | contiguous | pack(n, int32)",
    ),
    _rule(
        "pack-indivisible",
        "`pack` may leave elements over",
        "A storage element is full or it is wrong. `require` says that the extent is a multiple, or `pad` makes it one.",
        "- weight: pack(n, int32)",
        "require:\n  - N % 8 == 0",
    ),
    _rule(
        "pack-packed",
        "this is packed already",
        "Lanes are packed once. Another packing is made by `unpack` and `pack`, or in one pass by `relayout`.",
        "- weight: pack(n, int8) | pack(n, int32)",
        "- weight: pack(n, int8) | bitcast(int32)",
    ),
    _rule(
        "pack-nothing",
        "one element fills the storage",
        "`pack` puts several elements into one storage element. Where one fills it, only the dtype changes, which is `bitcast`.",
        "- weight: pack(k, int8)",
        "- weight: bitcast(uint8)",
    ),
    _rule(
        "unpack-no-lanes",
        "there is nothing to unpack",
        "`unpack` takes the lanes of a packed value apart. A storage element with one element has none.",
        "- weight: unpack(int8)",
        "- weight: pack(n, int8) | unpack(int8)",
    ),
    _rule(
        "unpack-no-place",
        "no dim takes the lanes in",
        "A lane goes behind the digit of its axis that it continues. If no dim holds that digit, the author has to say where the elements go.",
        "- weight: unpack(int8)",
        "- weight: relayout int4[n, k] in int8[n, k]",
    ),
    _rule(
        "unpack-not-by-value",
        "the target does not hold every value",
        "Unpacked elements are values. An unsigned byte has no -8, an integer no 1.5.",
        "- weight: unpack(uint8)",
        "- weight: unpack(int8)",
    ),
    _rule(
        "widen-not-native",
        "only a plain element can be widened",
        "`widen` puts the bits of a torch dtype into a wider integer. Packed elements, and elements in a carrier, have no bits of their own there.",
        "- weight: widen(int32, zero)",
        "- weight: unpack(int8)",
    ),
    _rule(
        "widen-not-integer",
        "bits are widened into integers",
        "A wider float would change what the bits mean; that is `cast`.",
        "- scale: widen(float64, zero)",
        "- scale: widen(int64, zero)",
    ),
    _rule(
        "widen-not-wider",
        "the target is not wider",
        "`widen` adds bits above those of the element. Into the same width, the bits go by `bitcast`.",
        "- scale: widen(int32, zero)",
        "- scale: bitcast(int32)",
    ),
    _rule(
        "relayout-digits",
        "`relayout` to another logical tensor",
        "`relayout` moves elements, each of which keeps its indices. Two types over different axes hold different tensors.",
        "- weight: relayout int8[n, e]",
        "- weight: relayout int8[k, n]",
    ),
    _rule(
        "relayout-element",
        "`relayout` to another element",
        "Elements move, their values stay. A change of element is a `cast`, and stands on its own so that its rounding is seen.",
        "- weight: relayout int8[n, k]",
        "- weight: relayout int4[n, k] in int8[k, n]",
    ),
    _rule(
        "relayout-format",
        "`relayout` into a memory format",
        "The cast to FRACTAL_NZ is made by the device, so it is a step that the plan shows.",
        "- weight: relayout int8[n, k] over nz[n, k]",
        "- weight: nz",
    ),
    _rule(
        "movement-on-nz",
        "this cannot be done to a FRACTAL_NZ value",
        """FRACTAL_NZ stores blocks of 16 rows. torch shows the dims as before, but neither strides nor neighbours are what they seem, so a view, a copy or
        a pack there gives garbage without an error. Everything else comes before `nz`.""",
        "- weight: nz | pack(n, int8)",
        "- weight: pack(n, int8) | nz",
    ),
    _rule(
        "nz-not-contiguous",
        "`nz` of a transposed view",
        """The format cast reads memory in the order of the dims. On a view it either copies silently or reads the wrong order; real code did the latter.""",
        "- weight: transpose(k, n) | nz",
        "- weight: transpose(k, n) | contiguous | nz",
    ),
    _rule(
        "nz-dtype",
        "this dtype has no FRACTAL_NZ form",
        "The device casts 1-, 2- and 4-byte dtypes only, and float32 only where the dtype of the activation is given.",
        "- scale: nz",
        "- weight: nz",
    ),
    _rule(
        "nz-rank",
        "FRACTAL_NZ needs two dims",
        "The last two dims in memory are cut into blocks; a vector has nothing to cut.",
        "- bias: nz",
        "- weight: nz",
    ),
    _rule(
        "pad-multiple",
        "a padding that cuts through a digit",
        "A dim that counts groups of 32 can grow by whole groups only.",
        "- scale: pad(k, 48, 0)",
        "- scale: pad(k, 64, 0)",
    ),
    _rule(
        "pad-not-top",
        "the padded axis does not lead its dim",
        "The holes of a padding lie behind all elements. Inside a merged dim they would move every element after the first row.",
        "- scale: view [(e, n)] | pad(n, 16, 0)",
        "- scale: pad(n, 16, 0) | view [(e, n)]",
    ),
    _rule(
        "pad-twice",
        "the axis is padded already",
        "One axis has one capacity. A second padding would need to know which holes the first one made.",
        "- scale: pad(k, 64, 0) | pad(k, 128, 0)",
        "- scale: pad(k, 128, 0)",
    ),
    _rule(
        "unbind-not-a-dim",
        "the axis is not a dim of its own",
        """A list has one tensor per index, which needs a dim with that axis alone. Unbinding what a merge had swallowed gave slices of another axis in real
        code, with the right shapes.""",
        "- scales: scale | view [(e, n)] | unbind(e)",
        "- scales: scale | view [e, n] | unbind(e)",
    ),
    _rule(
        "unbind-not-slowest",
        "the slices would be scattered",
        "Each tensor of the list shares memory with the whole at an offset. If another dim is slower in memory, a slice is not one piece.",
        "- experts: weight | transpose(n, e) | unbind(e)",
        "- experts: weight | unbind(e)",
    ),
    _rule(
        "unbind-padded",
        "some slices hold no element",
        "A padded axis has indices beyond its extent. Their slices would be tensors that mean nothing.",
        "- experts: weight | pad(e, 16, 0) | unbind(e)",
        "- experts: weight | unbind(e)",
    ),
    _rule(
        "op-on-list",
        "this op does not work on a list",
        "Stages behind `unbind` are applied to every tensor of the list; a second `unbind` and `relayout` are not.",
        "- parts: weight | unbind(e) | unbind(n)",
        "- parts: weight | unbind(e)",
    ),
    _rule(
        "is-not",
        "the value has another type than stated",
        "`is` costs nothing when the plan runs: it tells the reader what the value is, and the compiler what the author believes.",
        "- weight: transpose(k, n) | is int8[n, k] in int8[k, n]",
        "- weight: transpose(k, n) | contiguous | is int8[n, k] in int8[k, n]",
    ),
    _rule(
        "call-of-packed",
        "a kernel call on a packed or formatted value",
        "A kernel that is called while loading takes whole elements in plain memory; what it would read otherwise is not what the type says.",
        "- scale: widen(int64, zero) | call(npu_trans_quant_param, int64)",
        "- scale: call(npu_trans_quant_param, int64)",
    ),
    _rule(
        "call-not-contiguous",
        "a kernel call on a view",
        "The order in memory is part of what such a kernel reads.",
        "- scale: transpose(k, n) | call(npu_trans_quant_param, int64)",
        "- scale: transpose(k, n) | contiguous | call(npu_trans_quant_param, int64)",
    ),
)

# ---- index math -------------------------------------------------------------------------------------------------------------------------------------

MATH = (
    _rule(
        "free-index",
        "nothing gives this index",
        """An index on the right is on the left, or bound by a sum. A free one is a forgotten `sum` (the kernel then gets a bias with one dim too many) or a
        forgotten index on the left.""",
        "- bias[n]: float32(weight[n, k])",
        "- bias[n]: sum[k](float32(weight[n, k]))",
    ),
    _rule(
        "sum-bound-twice",
        "a sum over an index of the left side",
        """What stands on the left is fixed for each element of the result, so a sum cannot run over it, nor over a coarser or finer part of it. Mostly the
        wrong axis is summed.""",
        "- bias[n]: sum[n](float32(weight[n, k]))",
        "- bias[n]: sum[k](float32(weight[n, k]))",
    ),
    _rule(
        "sum-narrow",
        "a sum of integers that may wrap around",
        "Integer sums are exact. Added up in int8 or int32, a long axis wraps around without an error; in int64 none can.",
        "- total[n]: sum[k](weight[n, k])",
        "- total[n]: sum[k](int64(weight[n, k]))",
    ),
    _rule(
        "index-twice",
        "an index stands twice on the left",
        "Each index of the result is a loop of its own; a square matrix has two axes.",
        "- rotation[n, n]: left[n]",
        "- rotation[n, m]: left[n] * right[m]",
    ),
    _rule(
        "index-missing",
        "a tensor is read without its indices",
        "Index math reads one element at a time. Only a tensor with one element may be named bare.",
        "- scale[n]: weight_scale * 2",
        "- scale[n]: weight_scale[n] * 2",
    ),
    _rule(
        "read-digits",
        "a read with other indices than the tensor has",
        """A read names the logical digits of the tensor, in any order: those of its declaration or of the step that computed it, never those of a view.
        Dims of one index may be left out. A scale read per channel that is stored per group is found here.""",
        "- scale[n]: weight_scale_second[n]",
        "- scale[n, k//g]: weight_scale_second[n, k//g]",
    ),
    _rule(
        "pick-out-of-range",
        "a picked index may be out of range",
        "`name[n = expression]` reads at a computed index. It must stay inside the axis for all sizes that meet `require`.",
        "- next[n]: scale[n = n + 1]",
        "- first[k]: scale[n = 0]",
    ),
    _rule(
        "read-uninitialised",
        "the values are not in the checkpoint",
        "The parameter exists in this case, but no file holds it and no `init` fills it: whatever lies in memory would be read, which real code did.",
        "input_offset: {type: int8[0], given: not ct}",
        "input_offset: {type: int8[0], given: not ct, init: 0}",
    ),
    _rule(
        "read-of-bits",
        "the value is carried as bits",
        "After `widen` or `bitcast` the integer that torch sees is not the value. Math comes before it.",
        "- scale: widen(int64, zero)\n- twice[n]: scale[n] * 2",
        "- twice[n]: scale[n] * 2\n- scale: widen(int64, zero)",
    ),
    _rule(
        "read-of-opaque",
        "opaque bytes have no values",
        "What only a kernel understands can be moved and passed on, nothing else.",
        "- twice[n]: compressed[n] * 2",
        "- compressed: contiguous",
    ),
    _rule(
        "read-of-list",
        "math cannot read a list",
        "A list has tensors, not elements. Math comes before `unbind`.",
        "- parts: weight | unbind(e)\n- bias[n]: sum[k](parts[n, k])",
        "- bias[e, n]: sum[k](weight[e, n, k])\n- parts: weight | unbind(e)",
    ),
    _rule(
        "dtype-mismatch",
        "an operator of two dtypes",
        """Nothing is promoted silently: the order of rounding is part of a scheme, and a product in bfloat16 differs from one in float32 in a third of all
        values.""",
        "- scale[n]: weight_scale[n] * second[n]",
        "- scale[n]: float32(weight_scale[n]) * second[n]",
    ),
    _rule(
        "operator-dtype",
        "the dtype has no such operator",
        "Floats have `+ - * /`, integers `+ - * // % & << >>`; int4, the 4- and 8-bit floats and exponents have no arithmetic at all and are cast first.",
        "- twice[n, k]: weight[n, k] * weight[n, k]",
        "- twice[n, k]: float32(weight[n, k]) * float32(weight[n, k])",
    ),
    _rule(
        "bits-width",
        "bits of another width",
        """`bits(T, x)` gives the same bits another meaning, so the widths are equal. Taking the bits of a bfloat16 as a 32-bit integer reads half a
        neighbour.""",
        "- code[n]: bits(uint8, scale[n])",
        "- code: bitcast(int32)",
    ),
    _rule(
        "literal-inexact",
        "a literal that the dtype cannot hold",
        "A literal takes the dtype of the other operand, if it is exact there: 0.1 is no float, 300 no int8.",
        "- scaled[n]: scale[n] * 0.1",
        "- scaled[n]: scale[n] * 0.125",
    ),
    _rule(
        "literal-without-dtype",
        "a literal alone has no dtype",
        "A constant tensor needs a dtype, which no other operand gives it.",
        "- zero[n]: 0",
        "- zero[n]: float32(0)",
    ),
    _rule(
        "cast-in-value",
        "`value` is over the reals",
        """`value` says what the tensors mean, as a mathematician would: nothing is rounded there. Casts and their order are what the steps are checked for.""",
        "value:\n  W[n, k]: float32(weight[n, k]) * weight_scale[n]",
        "value:\n  W[n, k]: weight[n, k] * weight_scale[n]",
    ),
    _rule(
        "invariant-form",
        "an invariant is an equation about a stored tensor",
        "Invariants say which stored tensors repeat others, so that they can be checked, and filled in test data.",
        "invariants:\n  - sum[k](weight[n, k]) > 0",
        "invariants:\n  - scale_bias[n] == 8 * sum[k](W[n, k])",
    ),
    _rule(
        "not-math",
        "this is not index math",
        """Index math has reads, numbers, sums, `+ - * / // % & << >>` and casts. Conditions stand in `a if case else b`; lists, texts and conditions have
        no value here.""",
        '- name[n]: "weight"',
        "- zero[n]: float32(0)",
    ),
)

# ---- forward and contracts --------------------------------------------------------------------------------------------------------------------------

FORWARD = (
    _rule(
        "forward-unknown",
        "this is not a forward",
        "A forward is a list of kernel calls, or the word `external` where the consumer calls the kernels itself.",
        "forward: none",
        "forward: external",
    ),
    _rule(
        "forward-returns-nothing",
        "no line returns the result in some case",
        "In every reachable case one line returns, or says that the consumer calls the kernels (`return: external`).",
        "- y: npu_swiglu(x)",
        "- return: npu_swiglu(x)",
    ),
    _rule(
        "not-forward",
        "index math in the forward",
        "The forward becomes straight-line Python that calls kernels, once per token. What is computed from weights alone is a step, and runs once.",
        "- return: npu_swiglu(weight[n, k])",
        "- return: npu_swiglu(x)",
    ),
    _rule(
        "inline-copies",
        "a copy on every call",
        "Between brackets in the forward stand only views, which cost nothing. Whatever copies is a step, so that it runs once when the layer is loaded.",
        "- return: npu_swiglu((weight | contiguous))",
        "- return: npu_swiglu((weight | bitcast(int32)))",
    ),
    _rule(
        "argument-unknown",
        "the kernel has no such argument",
        "The names are those of the kernel's schema in torch_npu, in which a wrong one fails at the first call.",
        "npu_weight_quant_batchmatmul(x, weight, scale, group_size=128)",
        "npu_weight_quant_batchmatmul(x, weight, scale, antiquant_group_size=128)",
    ),
    _rule(
        "forward-returns-twice",
        "two lines return in one configuration",
        """A forward ends once. Where two lines return, one of them was meant for another case, and the other one would never run.""",
        "- return: external\n  when: channel\n- return: npu_grouped_matmul([x], [w], ...)",
        "- return: external\n  when: channel\n- return: npu_grouped_matmul([x], [w], ...)\n  when: not channel",
    ),
    _rule(
        "kernel-unknown",
        "a call of something that is no kernel",
        """Forward calls kernels only: `npu_...`, or a name with its namespace. Any other name is a slip, and would become an operator that does not exist,
        found out on the device at the first token.""",
        "- y: npu_quant_matmul(xq, weight, scale, output_dtype=dtype(x))",
        "- y: npu_quant_matmul(xq, weight, scale, output_dtype=x.dtype)",
    ),
    _rule(
        "kernel-unchecked",
        "a kernel is called that nobody checks",
        """A note, not a fault: no contract row speaks of this kernel with these operands, so their layouts are taken as they come. State what the kernel
        wants with `is TYPE` at the end of each pipeline.""",
        "- weight: transpose(k, n) | contiguous",
        "- weight: transpose(k, n) | contiguous | is int8[n, k] in int8[k, n]",
    ),
    _rule(
        "contract-layout",
        "the kernel wants another layout",
        """A contract says what a kernel reads: element, storage, lanes, order of the dims and of memory, format. It is proved for all sizes against what
        the steps make. Kernels do not check this: packed along k instead of n, or not transposed, they compute wrong numbers at full speed. The note
        names the row of the contract and its source, so that a wrong row can be challenged.""",
        "- weight: pack(k, int32)",
        "- weight: transpose(k, n) | contiguous | pack(n, int32)",
    ),
    _rule(
        "group-size",
        "a group size that the kernel does not take",
        "npu_weight_quant_batchmatmul takes per-group scales for groups that are multiples of 32, at least 32, and smaller than k.",
        "group_size: {type: int, default: 16}",
        "group_size: {type: int, default: 128}",
    ),
    _rule(
        "nz-group-size",
        "FRACTAL_NZ with a group size that the kernel does not take",
        """With int4 weights in FRACTAL_NZ, npu_weight_quant_batchmatmul takes groups of 64 and 128 only; users met `antiquantGroupSize should be 128 or 64`
        with the default of 256.""",
        "- weight: transpose(k, n) | contiguous | nz",
        "- weight: transpose(k, n) | contiguous | nz when group_size in [64, 128]",
    ),
    _rule(
        "nz-alignment",
        "FRACTAL_NZ with sizes that do not fill blocks",
        "With int4 weights in FRACTAL_NZ, npu_weight_quant_batchmatmul wants k to be a multiple of the group size and n of 64.",
        "output_size = 96",
        "output_size = 128, or weight_nz_mode = 0",
    ),
    _rule(
        "a8w4-k",
        "a reduced axis that is too long for the kernel",
        "npu_grouped_matmul with int8 tokens and int4 weights takes k up to 18432.",
        "hidden_size = 20480",
        "hidden_size = 7168",
    ),
    _rule(
        "a8w4-group-size",
        "a group size that the grouped matmul does not take",
        "npu_grouped_matmul with int8 tokens, int4 weights and per-group scales is made for groups of 256.",
        "group_size: {type: int, default: 128}",
        "group_size: {type: int, default: 256}",
    ),
    _rule(
        "targets-differ",
        "more or fewer names than results",
        """A kernel gives as many results as its schema says. Every result has a name before the colon, `_` drops one, and a call inside another one gives
        one result.""",
        "- xq: npu_dynamic_quant(x)",
        "- xq, xs: npu_dynamic_quant(x)",
    ),
    _rule(
        "forward-result",
        "the layer does not return rows of its output",
        """What a layer returns has one row per row of `x`, as wide as its output, in a float dtype. Anything else is a result of a line in between.""",
        "- return: npu_swiglu(h)",
        "- return: npu_grouped_matmul([hq], [w2_weight], ...)",
    ),
    _rule(
        "read-after-mutation",
        "what a kernel has overwritten is read",
        """Some kernels overwrite an argument. The grouped matmul of int8 tokens with int4 weights splits its tokens in place, so whoever reads them
        afterwards reads halves of numbers. The contract says which argument it is.""",
        "- y: npu_grouped_matmul([xq], ...)\n- z: npu_grouped_matmul([xq], ...)",
        "- xq, xs: npu_dynamic_quant(x)\n- z: npu_grouped_matmul([xq], ...)",
    ),
    _rule(
        "replicated-addend",
        "a bias that every rank adds",
        """On a layer whose inputs are split over ranks, every rank computes a part of the sum, and the parts are added. A bias that all ranks hold whole must
        be added by one of them. A value that is itself a sum over the split axis is a part, and every rank adds its own. The layer's own `bias` is given to
        rank 0 only by the loader.""",
        "bias=quant_bias",
        "bias=quant_bias if tp_rank == 0 else none",
    ),
    _rule(
        "scale-of-another",
        "the scale belongs to another tensor",
        "A kernel that quantizes rows gives the rows and their scale. They stay together: the scale of the tokens says nothing about what swiglu made of them.",
        "npu_grouped_matmul([hq], ..., per_token_scale=[xs])",
        "npu_grouped_matmul([hq], ..., per_token_scale=[hs])",
    ),
    _rule(
        "contract-device",
        "the kernel is not for this device",
        """The contract of the kernel has no row for a device that the spec says it holds for. Either the kernel does not exist there, or nobody has written the
        row; `holds` names only what somebody has checked.""",
        "holds: {consumer: [vllm-ascend-main], device: [a2]}",
        "holds: {consumer: [vllm-ascend-main], device: [a5]}",
    ),
    _rule(
        "argument-missing",
        "an argument that the kernel requires",
        "The schema of the kernel, as torch_npu registers it, has no default for this argument.",
        "npu_dynamic_quant()",
        "npu_dynamic_quant(x)",
    ),
    _rule(
        "argument-twice",
        "an argument is given twice",
        "It stands once by its position and once by its name.",
        "npu_swiglu(h, input=h)",
        "npu_swiglu(h)",
    ),
    _rule(
        "a8w4-swiglu-n",
        "an output axis that is too long for the kernel",
        "The grouped matmul with swiglu and quantization takes n (gate and up together) up to 10240.",
        "intermediate_size_per_partition = 6144",
        "intermediate_size_per_partition = 4096",
    ),
    _rule(
        "a8w4-swiglu-k",
        "a reduced axis that is too long for the kernel",
        "The grouped matmul of int8 tokens with int4 weights, with swiglu and quantization, takes k below 20000.",
        "hidden_size = 20480",
        "hidden_size = 7168",
    ),
    _rule(
        "kernel-size",
        "an axis that the kernel cannot take at this length",
        """Kernels count some axes in 16 bits, or hold a row of them in a buffer of fixed size; FRACTAL_NZ wants more than one index. The condition names the
        letters of the kernel: k is summed over, n comes out.""",
        "output_size = 131072",
        "output_size = 65535",
    ),
    _rule(
        "kernel-alignment",
        "an axis that is not a multiple of what the kernel wants",
        "The kernel works on whole blocks of this axis, and reads or writes past the end of a partial one.",
        "input_size = 4304",
        "input_size = 4352",
    ),
    _rule(
        "forward-path",
        "a name without a value for some inputs",
        """Lines with `when: given(...)` exist for some calls only. A name that such a line binds is read only where the line exists, or is bound by another
        line for the other calls.""",
        "- xq, xs: npu_dynamic_quant(x)\n  when: not given(x_scale)\n- return: npu_quant_matmul(xq, ...)",
        "- xq, xs: npu_dynamic_quant(x)\n  when: not given(x_scale)\n"
        "- when: given(x_scale)\n  do:\n    - xq: x\n    - xs: x_scale\n- return: npu_quant_matmul(xq, ...)",
    ),
    _rule(
        "group-list-mixed",
        "calls that want the group list in two ways",
        """The rows of an expert are told to grouped kernels as counts or as a running sum. A forward gets one list, so all its calls must take it in one way;
        `npu_grouped_matmul_swiglu_quant` takes the running sum only.""",
        "npu_grouped_matmul([h], [w], ..., group_list=group_list, group_list_type=1) behind npu_grouped_matmul_swiglu_quant(...)",
        "npu_grouped_matmul([h], [w], ..., group_list=group_list, group_list_type=0) behind npu_grouped_matmul_swiglu_quant(...)",
    ),
    _rule(
        "group-list-unknown",
        "a call that does not say how it takes the group list",
        """A kernel without a schema here has no default that is known, and a `group_list_type` other than 0 and 1 is not made by any forward.""",
        "_C_ascend.some_grouped_matmul(x, w, group_list)",
        "_C_ascend.some_grouped_matmul(x, w, group_list, group_list_type=1)",
    ),
)

# ---- liveness ---------------------------------------------------------------------------------------------------------------------------------------

LIVENESS = (
    _rule(
        "read-after-delete",
        "a deleted name is read",
        "After `delete` the name is gone from the layer. A delete that stands too early, or has too wide a condition, is found here.",
        "- delete: scale\n- bias[n]: scale[n] * 8",
        "- bias[n]: scale[n] * 8\n- delete: scale",
    ),
    _rule(
        "source-missing",
        "a new name that is made from nothing",
        """A pipeline changes the tensor of its own name. A new name needs the tensor that it is made from as its first stage.""",
        "- weight_scale_fp32: cast(float32)",
        "- weight_scale_fp32: weight_scale | cast(float32)",
    ),
    _rule(
        "not-a-number",
        "a text where a number is handed to the layer",
        """`as: value` hands a number or a condition to the layer. A text of the config stays in the config; what depends on it is a condition.""",
        "- kind_of_layer: layer_type\n  as: value",
        '- is_row: layer_type == "row"\n  as: value',
    ),
    _rule(
        "overwritten-unread",
        "a loaded value is overwritten before it is read",
        """The checkpoint holds the tensor and nothing ever looks at it: mostly the right side reads the wrong name. Real code computed an offset from the
        scale, which is invisible as long as all offsets are 0.""",
        "- input_offset[n]: input_scale[n]",
        "- input_offset[n]: input_offset[n]",
    ),
    _rule(
        "consumed-kept",
        "a parameter is consumed and kept",
        """The steps have used the parameter up, and nothing reads it again; kept, it costs memory on every card for as long as the model lives. Real code
        kept the second scales of all experts.""",
        "- scale[n, k//g]: weight_scale[n] * second[n, k//g]",
        "- scale[n, k//g]: weight_scale[n] * second[n, k//g]\n- delete: second",
    ),
    _rule(
        "loaded-unused",
        "a parameter is loaded and not used",
        "A note, not a fault: the checkpoint holds the tensor, so it must be declared. The consumer may read it, or nobody does.",
        "params:\n  weight_offset: float32[n, 0]",
        "params:\n  weight_offset: float32[n, 0]\nsteps:\n  - delete: weight_offset",
    ),
)

# ---- plans ------------------------------------------------------------------------------------------------------------------------------------------

PLANS = (
    _rule(
        "plan-syntax",
        "this is not a plan",
        "A plan is JSON as `layoutdsl compile` writes it: every key known, none missing, nothing twice.",
        'load_plan("specs/w4a8_dynamic.linear.yaml")',
        'load_plan("plan.json")',
    ),
    _rule(
        "plan-version",
        "a plan of another version",
        "The meaning of a plan's instructions belongs to its version. A program that does not know it must not guess.",
        '"version": 2',
        '"version": 1',
    ),
    _rule(
        "plan-hash",
        "the plan is not what was written",
        "The hash covers the whole plan. A plan changed by hand, or cut off by a full disk, has not been proved.",
        "a plan with an edited size",
        "the spec compiled again",
    ),
    _rule(
        "plan-invalid",
        "a plan that contradicts itself",
        """A plan is checked before it runs, whoever wrote it: values are defined before they are used, types fit their storages, moves keep the logical
        tensor. So what runs it stays inside its tensors.""",
        "an extent of -1",
        "the spec compiled again",
    ),
    _rule(
        "size-missing",
        "a size of the layer is not known",
        "A plan serves all sizes; shapes and memory need numbers.",
        'plan.bind({"input_size": 192})',
        'plan.bind({"input_size": 192, "output_size": 96})',
    ),
    _rule(
        "size-unknown",
        "the plan has no such size",
        "Sizes are named by the kind of layer. A misspelt one would leave the right one unset.",
        'plan.bind({"in_features": 192, "output_size": 96})',
        'plan.bind({"input_size": 192, "output_size": 96})',
    ),
    _rule(
        "size-invalid",
        "a size is a positive integer",
        "Sizes count elements of this partition: neither floats, nor texts, nor zero.",
        'plan.bind({"input_size": 192.0, "output_size": 96})',
        'plan.bind({"input_size": 192, "output_size": 96})',
    ),
    _rule(
        "size-unsolved",
        "the shapes do not determine a size",
        "Without sizes they are solved from the shapes of all tensors together, and never guessed. If no tensor shows one, it has to be said.",
        "plan.run(tensors)",
        "plan.bind(sizes).run(tensors)",
    ),
    _rule(
        "limit-broken",
        "the kernel is not made for these sizes",
        """A warning: the layout is right, but the kernel's document names a condition that these sizes or this config do not meet. It may refuse, or be
        wrong; the note says where the condition is from.""",
        "group_size = 256 with FRACTAL_NZ",
        "group_size = 128",
    ),
)

# ---- running ----------------------------------------------------------------------------------------------------------------------------------------

RUNTIME = (
    _rule(
        "tensor-missing",
        "a tensor of the layer is missing",
        "The checkpoint must hold every parameter that has no default. An absent one would leave whatever lies in memory.",
        'plan.run({"weight": weight})',
        'plan.run({"weight": weight, "weight_scale": scale})',
    ),
    _rule(
        "tensor-unexpected",
        "a tensor that the layer does not have",
        "What is not declared would be dropped silently: often it is the one that another config needs (another version, another strategy).",
        'plan.run({"weight": weight, "scale": scale})',
        'plan.run({"weight": weight, "weight_scale": scale})',
    ),
    _rule(
        "tensor-dtype",
        "a tensor of another dtype",
        "Bits mean what their dtype says. Loading float32 into a bfloat16 parameter rounds, loading packed bytes as values is noise.",
        "weight_scale: float16",
        "weight_scale: bfloat16, or params_dtype=float16",
    ),
    _rule(
        "tensor-shape",
        "a tensor of another shape",
        """Shapes follow from the types and the sizes. A difference of a factor 2 is mostly packing (`version`), a difference in the number of groups
        `group_size`.""",
        "weight: [96, 192] for int4 packed in pairs along n",
        "weight: [48, 192], or another `version`",
    ),
    _rule(
        "tensor-kind",
        "this is not a tensor",
        "A plan runs on torch tensors by name. A list, an array or a number in their place has no dtype and no memory that the plan could check.",
        'plan.run({"weight": weight.tolist()})',
        'plan.run({"weight": weight})',
    ),
    _rule(
        "tensor-device",
        "the tensors are on several devices",
        "A plan runs where its tensors are. Copies between devices are the caller's decision.",
        'plan.run({"weight": weight.cpu(), "weight_scale": scale.npu()})',
        'plan.run({"weight": weight.npu(), "weight_scale": scale.npu()})',
    ),
    _rule(
        "loaded-into-kernel-form",
        "a checkpoint is loaded into what a plan has made of it",
        "After `apply` a parameter has the shape and layout that the kernel wants. Where shapes happen to agree, loading into it would give garbage silently.",
        "plan.apply(layer)\nlayer.weight.weight_loader(layer.weight, weight)",
        "plan.restore(layer)\nlayer.weight.weight_loader(layer.weight, weight)\nplan.apply(layer)",
    ),
    _rule(
        "torn",
        "a layer is partly in the checkpoint's form and partly in the kernel's",
        """An output can be made only if all that it is made from was loaded. After a failure in the middle, or when some parameters were loaded anew and others
        not, no result would be right. `plan.forward` refuses a layer that was created or restored and not applied since: with a square weight no kernel
        notices.""",
        "plan.restore(layer)\nlayer.weight = None\nplan.apply(layer)",
        "plan.restore(layer)\nload(layer)\nplan.apply(layer)",
    ),
    _rule(
        "policy-invalid",
        "the policy does not suit the call",
        """`apply` works by `stage` (everything is made before anything changes), `stream` (output by output) or, when a layer is loaded for the first time,
        `donate` (inputs go while outputs are made); `restore` by `alias` or `fresh`.""",
        'plan.apply(layer)\nplan.restore(layer)\nplan.apply(layer, policy="donate")',
        'plan.apply(layer, policy="donate")\nplan.restore(layer)\nplan.apply(layer)',
    ),
    _rule(
        "memory-exhausted",
        "too little memory for the layer",
        "The machine refused an allocation. With `--donate`, tensors are freed as soon as they are used.",
        "layoutdsl apply in.safetensors -o out.safetensors ...",
        "layoutdsl apply in.safetensors -o out.safetensors ... --donate",
    ),
    _rule(
        "torch-missing",
        "torch or safetensors is not installed",
        "Checking and compiling work without torch; running a plan does not.",
        "pip install layoutdsl",
        "pip install layoutdsl[torch]",
    ),
    _rule(
        "torch-dtype-missing",
        "this torch is too old for a dtype",
        "The plan needs a dtype that the installed torch lacks, such as the 8-bit floats or exponents.",
        "torch 2.1",
        "torch 2.7 or later",
    ),
    _rule(
        "torch-dtype-unknown",
        "a torch dtype that the language does not have",
        "Complex numbers, quantized dtypes and the like are no storage of a checkpoint that a spec can describe.",
        "weight: torch.complex64",
        "weight: torch.int8",
    ),
    _rule(
        "torch-npu-missing",
        "torch_npu cannot be loaded",
        "Formats and kernels of the device need torch_npu with CANN. On a CPU, plans run without them.",
        "plan.run(tensors) on an npu device without CANN",
        "plan.run(tensors) on a CPU",
    ),
    _rule(
        "kernel-missing",
        "a kernel that does not exist on this device",
        "The plan calls a kernel while loading, and the device where the tensors are has none of that name.",
        "plan.run(tensors) on a CPU",
        "plan.run(tensors) on an npu device with torch_npu",
    ),
    _rule(
        "kernel-arguments",
        "a kernel that does not take these arguments",
        """A reference kernel computes what the documents of the kernel say, for the dtypes, shapes and layouts that they speak of. Anything else is
        refused: on a device it would be refused too, or give numbers that nobody can predict.""",
        "npu_swiglu(x) for x: int8[4, 16]",
        "npu_swiglu(x) for x: bfloat16[4, 16]",
    ),
    _rule(
        "forward-external",
        "the consumer runs this layer",
        """Some layers are called by code that no forward describes: fused with communication, or through a library of the consumer. The plan then ends with
        what the steps leave.""",
        "plan.forward(module, x) for a plan with `forward: external`",
        "plan.apply(module), and the consumer's own call",
    ),
    _rule(
        "forward-inputs",
        "a layer called with the wrong inputs",
        """What a forward does not read would be lost without a word, a bias for example; what it needs must be there in the shape that it reads.""",
        "plan.forward(module, x, group_list=counts, topk_ids=ids)",
        "plan.forward(module, x, topk_ids=ids, topk_weights=weights)",
    ),
)

# ---- verify -----------------------------------------------------------------------------------------------------------------------------------------

VERIFY = (
    _rule(
        "verify-vectors",
        "the plan does not make what the shipped vectors say",
        """Beside a spec lie small tensors with what the replaced system makes of them, written by a script that knows nothing of layoutdsl. Names, dtypes,
        shapes, strides and every bit must agree. A rounding that is missing, or in another place, shows here and nowhere else: it is far smaller than what
        a kernel rounds.""",
        "- <p>_weight_scale[e, k//g, n]: <p>_weight_scale[e, n] * <p>_weight_scale_second[e, n, k//g]",
        "- <p>_weight_scale[e, k//g, n]: float32(float16(<p>_weight_scale[e, n] * <p>_weight_scale_second[e, n, k//g]))",
    ),
    _rule(
        "verify-weights",
        "a kernel does not multiply with what `value` says",
        """Rows with a single one go through the kernels of the forward, so that the weights come out as the kernel reads them: lanes, scales, offsets. They are
        compared with `value`, evaluated in float64 from the checkpoint as it is stored. A row of zeros must give what `value` adds, mostly nothing. The finding
        names the tensor, the worst place, and why no more error is allowed.""",
        "- weight_scale_bias[n]: sum[k](float32(weight[n, k]) * ...)",
        "- weight_scale_bias[n]: 8 * sum[k](float32(weight[n, k]) * ...)",
    ),
    _rule(
        "verify-value",
        "`value` says nothing in a configuration that has a forward",
        """What the kernels compute is compared with `value`. Where no case of it holds, or it does not name the products of the layer, there is nothing to
        compare with, and a mistake would pass. Of a linear layer `value` names one product of outputs and inputs; of experts two, gate|up and down.""",
        "W[n, k]: {packed: weight[n, k] * weight_scale[n]}",
        "W[n, k]: weight[n, k] * weight_scale[n]",
    ),
    _rule(
        "verify-forward",
        "the forward does not compute the layer",
        """The whole forward runs on a CPU, with reference kernels, and is compared with the layer in float64, made of `value`: one product for a linear
        layer; gate, up and down per expert for experts. What goes into each product is compared too, within half a step of its quantization. A kernel that
        refuses its arguments is reported with the same rule.""",
        "- return: npu_grouped_matmul([hq], [w2_weight], ..., per_token_scale=[xs])",
        "- return: npu_grouped_matmul([hq], [w2_weight], ..., per_token_scale=[hs])",
    ),
    _rule(
        "verify-tp",
        "ranks together do not make the layer of one rank",
        """A checkpoint is cut for 1, 2, 4, 8 and 16 ranks as the types of the parameters say: along the axis whose extent is the size that is split, and
        every segment of an axis for itself. The results of the ranks, summed or side by side, are compared with one rank's in float64. A split under which
        the ranks lose part of a tensor must be refused by a requirement.""",
        "axes: {n: hidden_size, s: 16 // tp_size}    # and scale_bias: float32[n, s]",
        "let: {chunk: K * tp_size // 16}             # and scale_bias: float32[n, k//chunk]",
    ),
    _rule(
        "process-differs",
        "hand-written code and the plan leave different layers",
        """`layoutdsl.testing.compare` runs both on copies of a layer. Outputs agree if they have the same dtype, shape, strides and bits; where a float sum
        decides the bits, if they are close.""",
        "compare(plan, layer, process)  # [process-differs]",
        "assert not compare(plan, layer, process)",
    ),
    _rule(
        "verify-against",
        "the spec and the hand-written class differ",
        """The same checkpoint went through the plan and through the class's `process_weights_after_loading`. Names, lists, dtypes, shapes, strides and
        every bit of what the layer has afterwards must agree. The values of the spec are those found, the values of the class those expected.""",
        "- weight: transpose(k, n) | pack(n, int32)    # the class keeps a contiguous copy of int8",
        "- weight: transpose(k, n) | contiguous",
    ),
    _rule(
        "against-import",
        "the class cannot be imported",
        "`--against` takes the module and the class, with a colon between them. The class must have a method `process_weights_after_loading`.",
        "layoutdsl verify W4A8_DYNAMIC.linear --against my/schemes.py",
        "layoutdsl verify W4A8_DYNAMIC.linear --against my.schemes:W4A8Linear",
    ),
    _rule(
        "against-failed",
        "the class raised an exception",
        """Its constructor is called with those names of the config and of the sizes that it takes, then the method with a module that has the parameters of
        the plan. If it is made for some configurations only, say which with `--set`.""",
        "layoutdsl verify W4A8_DYNAMIC.linear --against my.schemes:W4A8Packed",
        "layoutdsl verify W4A8_DYNAMIC.linear --against my.schemes:W4A8Packed --set version=1.0.0",
    ),
    _rule(
        "vectors-unreadable",
        "the vectors of a spec cannot be read",
        "The file beside the spec is not what tools/make_vectors.py writes, or is of another version.",
        "cp layer.safetensors specs/vectors/w4a8_dynamic.linear.safetensors",
        "python -m tools.make_vectors",
    ),
)

# ---- command line -----------------------------------------------------------------------------------------------------------------------------------

COMMANDS = (
    _rule(
        "spec-unknown",
        "no bundled spec of this name",
        "A spec is named by its scheme as checkpoints spell it, or by a path; a path has a `/` or ends in `.yaml`.",
        "layoutdsl explain W4A8DYNAMIC",
        "layoutdsl explain W4A8_DYNAMIC.linear",
    ),
    _rule(
        "layer-missing",
        "the scheme has several layers, or not this one",
        "One scheme has a spec per kind of layer.",
        "layoutdsl explain W4A8_DYNAMIC",
        "layoutdsl explain W4A8_DYNAMIC.moe",
    ),
    _rule(
        "layer-differs",
        "the file is for another layer",
        "A path and a layer are given, and the file says something else. One of the two is a mistake.",
        'load_spec("specs/w4a8_dynamic.moe.yaml", layer="linear")',
        'load_spec("specs/w4a8_dynamic.moe.yaml", layer="moe")',
    ),
    _rule(
        "subject-unknown",
        "there is no page of this name",
        "`explain` takes a spec, a rule (the code in brackets behind `error`) or an op.",
        "layoutdsl explain packing",
        "layoutdsl explain pack",
    ),
    _rule(
        "layer-not-stored",
        "the folder has no tensor below this prefix",
        """A layer is named by what its tensors' names begin with, as the files spell them: the whole way from `model`, without the name of the
        tensor. The experts of a layer are one layer, named by what stands before their numbers.""",
        "layoutdsl new --from DIR --layer layers.3.down_proj",
        "layoutdsl new --from DIR --layer model.layers.3.mlp.down_proj",
    ),
    _rule(
        "layer-ambiguous",
        "several layers stand below this prefix",
        """A spec is for one layer: one linear module, or the experts of one layer. Modules that loaders merge, as q, k and v, are stored apart and
        have one spec.""",
        "layoutdsl new --from DIR --layer model.layers.3.mlp",
        "layoutdsl new --from DIR --layer model.layers.3.mlp.down_proj",
    ),
    _rule(
        "file-not-safetensors",
        "the file is not a safetensors file",
        "Checkpoints are read as safetensors, whose header says what each tensor is. Pickled files may run code when they are read, and are not.",
        "layoutdsl apply model.bin -o out.safetensors ...",
        "layoutdsl apply model.safetensors -o out.safetensors ...",
    ),
    _rule(
        "file-unwritable",
        "the file cannot be written",
        "The folder does not exist, the disk is full, or writing there is not allowed. Nothing was left behind.",
        "-o missing/out.safetensors",
        "-o out.safetensors",
    ),
)

# ---- files of a checkpoint --------------------------------------------------------------------------------------------------------------------------------

CHECKPOINT_FILES = (
    _rule(
        "file-empty",
        "the file is empty",
        "A copy or a download was interrupted before its first byte, or the disk was full. An empty file is no JSON and no safetensors file.",
        "0 bytes  model-00003-of-00004.safetensors",
        "4995584424 bytes  model-00003-of-00004.safetensors",
    ),
    _rule(
        "lfs-pointer",
        "a Git LFS pointer stands in place of the file",
        """A repository keeps large files elsewhere and holds three lines of text for each. A clone without Git LFS has the lines only.""",
        "git clone https://example.org/model",
        "git lfs install && git clone https://example.org/model",
    ),
    _rule(
        "json-syntax",
        "the JSON cannot be read",
        """Readers of Python stop at the first character that is not JSON, among them comments, trailing commas and a byte order mark. Often the file is cut:
        then the last line is meant.""",
        '{"model_type": "qwen3",}',
        '{"model_type": "qwen3"}',
    ),
    _rule(
        "json-not-an-object",
        "the JSON is not an object",
        "The files of a checkpoint map names to values. A list or a single value has no names.",
        '["model.layers.0.self_attn.q_proj.weight"]',
        '{"model.layers.0.self_attn.q_proj.weight": "W8A8_DYNAMIC"}',
    ),
    _rule(
        "json-too-large",
        "the JSON file is too large",
        """The largest JSON of a checkpoint, the description of 820 000 tensors, has about 80 MB. The bound of 256 MiB keeps a file under a wrong name from
        filling the memory.""",
        "mv model.safetensors config.json",
        "cp ../float-model/config.json .",
    ),
    _rule(
        "json-too-deep",
        "the JSON is nested too deep",
        "No file of a checkpoint nests objects or lists by more than a few levels. Some readers crash on thousands.",
        '{"a": [[[[[[...]]]]]]}',
        '{"a": [1, 2]}',
    ),
    _rule(
        "json-duplicate",
        "a key stands twice in one object",
        """Python's reader takes the last value without a word, other readers the first. In a description that means two schemes for one tensor, in a
        safetensors header two places. Where both values are equal, this is a warning.""",
        '{"lm_head.weight": "FLOAT", "lm_head.weight": "W8A8"}',
        '{"lm_head.weight": "FLOAT"}',
    ),
    _rule(
        "json-constant",
        "a number that JSON does not have",
        "JSON has neither NaN nor Infinity. Python writes and reads them all the same; other readers refuse the file, safetensors among them.",
        '{"time_step_limit": [0.0, Infinity]}',
        '{"time_step_limit": [0.0, 1e30]}',
    ),
    _rule(
        "shard-truncated",
        "the safetensors file is cut",
        """The header says how many bytes the tensors have, and the file has fewer: a copy or a download was interrupted. Readers refuse the whole file.""",
        "the tensors end at byte 4995584424, the file at byte 4294967296",
        "the tensors end at byte 4995584424, the file at byte 4995584424",
    ),
    _rule(
        "header-too-long",
        "the header is longer than readers accept",
        """The first eight bytes of a safetensors file are the length of its header. The library reads at most 100 000 000 bytes; a model of millions of
        tensors is cut into shards.""",
        "one file with 2 000 000 tensors",
        "20 files with 100 000 tensors each",
    ),
    _rule(
        "header-entry",
        "an entry of the header has the wrong form",
        """Each tensor has a dtype (a text), a shape (a list of integers) and two data_offsets; `__metadata__` maps texts to texts. Readers refuse the file
        otherwise.""",
        '"x": {"dtype": "I8", "shape": "4", "data_offsets": [0, 4]}',
        '"x": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}',
    ),
    _rule(
        "header-dtype",
        "no reader knows the dtype",
        """Safetensors has a fixed list of dtypes. Four-bit integers are not among them: checkpoints store them by value in int8, or packed into int8 or
        int32.""",
        '"x": {"dtype": "I4", "shape": [8, 64], "data_offsets": [0, 256]}',
        '"x": {"dtype": "I8", "shape": [4, 64], "data_offsets": [0, 256]}',
    ),
    _rule(
        "header-offsets",
        "the offsets of a tensor lie outside the file",
        "data_offsets are the first byte of a tensor and the one behind its last, counted from the end of the header.",
        '"data_offsets": [1024, 512]',
        '"data_offsets": [512, 1024]',
    ),
    _rule(
        "header-size",
        "the bytes of a tensor do not fit its dtype and shape",
        "The product of the shape times the bytes of one element must be the length of the range. One of the three was changed without the others.",
        '"x": {"dtype": "F16", "shape": [4], "data_offsets": [0, 16]}',
        '"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}',
    ),
    _rule(
        "header-overlap",
        "two tensors share bytes",
        "Each byte behind the header belongs to one tensor. Readers refuse a file whose ranges overlap, since one of them must be wrong.",
        '"a": [0, 16] and "b": [12, 28]',
        '"a": [0, 16] and "b": [16, 32]',
    ),
    _rule(
        "header-hole",
        "bytes that belong to no tensor",
        "The tensors follow each other without holes, up to the last byte of the file. Readers refuse other files, since a hole may hide anything.",
        '"a": [0, 16] and "b": [20, 36]',
        '"a": [0, 16] and "b": [16, 32]',
    ),
    _rule(
        "name-escapes",
        "a file name inside JSON may lead out of the folder",
        """Names in an index or a description come from whoever made the checkpoint. An absolute path, `..`, a backslash or a drive letter may name any file
        of this machine; such a file is not opened.""",
        '{"weight_map": {"lm_head.weight": "../other/model.safetensors"}}',
        '{"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}',
    ),
    _rule(
        "index-form",
        "the index has no weight_map",
        "`model.safetensors.index.json` maps each tensor to the file that holds it. Loaders stop at an index without this map.",
        '{"metadata": {"total_size": 123}}',
        '{"metadata": {"total_size": 123}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}',
    ),
    _rule(
        "index-file-missing",
        "the index names a file that is not there",
        """vLLM reads those files of the index that it finds, and says nothing of the others: their parameters keep what was in memory.""",
        "model-00001-of-00002.safetensors, and an index that names -00001 and -00002",
        "both files",
    ),
    _rule(
        "index-file-unread",
        "the index names a file that loaders do not read",
        """vLLM looks for `*.safetensors` of the folder itself, then keeps those that the index names. A file in a sub-folder, or of another kind, is never
        found.""",
        '{"weight_map": {"lm_head.weight": "shards/model-00001-of-00002.safetensors"}}',
        '{"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}',
    ),
    _rule(
        "index-tensor-missing",
        "the index names a tensor that no file has",
        """The tensor was renamed or left out when a shard was written again, or is in a file that the index does not name. Loaders leave the parameter
        unfilled.""",
        "an index with model.norm.weight, and headers without",
        "the index written again from the headers",
    ),
    _rule(
        "index-tensor-elsewhere",
        "the index names the wrong file for a tensor",
        "vLLM reads the files of the index whole and finds the tensor; readers that open the named file do not.",
        "lm_head.weight: shard 1 in the index, shard 2 in the headers",
        "lm_head.weight: shard 2 in both",
    ),
    _rule(
        "index-tensor-unlisted",
        "the index lacks a tensor of its own files",
        "vLLM reads the files of the index whole and finds the tensor; readers that look tensors up by name do not.",
        "a tensor added to a shard, and the old index",
        "the index written again from the headers",
    ),
    _rule(
        "shard-unlisted",
        "the index does not name a file of the folder",
        """Beside `model.safetensors.index.json`, loaders ignore the files that it does not name. That is an error where only such a file holds a tensor that
        the model has, and a warning where it holds nothing that is missed.""",
        "model-00003-of-00003.safetensors, and an index that names -00001 and -00002",
        "an index that names all three",
    ),
    _rule(
        "shard-stray",
        "loaders read a file that is not one of the model's",
        """vLLM does not know the index of msModelSlim, and without an index it reads every `*.safetensors` of the folder. A shard that was left from another
        run is loaded with the others.""",
        "quant_model_weights-00001-of-00001.safetensors and backup.safetensors",
        "quant_model_weights-00001-of-00001.safetensors and old/backup.safetensors",
    ),
    _rule(
        "shard-missing",
        "a shard of the series is not there",
        "Shards are called `NAME-00001-of-00003.safetensors`. Without an index nothing but these names tells that one is missing.",
        "model-00001-of-00003.safetensors and model-00003-of-00003.safetensors",
        "model-00001-of-00003.safetensors, model-00002-of-00003.safetensors and model-00003-of-00003.safetensors",
    ),
    _rule(
        "tensor-twice",
        "two files hold a tensor of the same name",
        "Loaders read both files, and whichever comes later overwrites the other without a word.",
        "model.safetensors and model-copy.safetensors",
        "model.safetensors",
    ),
    _rule(
        "weights-missing",
        "the folder holds no safetensors file",
        "Loaders look in the folder itself, never in sub-folders. A path one level too high is the usual reason.",
        "layoutdsl check models/",
        "layoutdsl check models/Qwen3-8B-W8A8/",
    ),
    _rule(
        "weights-not-safetensors",
        "the weights are not in safetensors files",
        "Pickled files (`.bin`, `.pt`) may run code when they are read, and have no header that says what they hold. They are not opened.",
        "pytorch_model-00001-of-00002.bin",
        "model-00001-of-00002.safetensors",
    ),
    _rule(
        "description-name",
        "the description is not under the name that loaders know",
        "Old versions of msModelSlim put the scheme into the name. Loaders look for one name only, and take the model for a float one without it.",
        "quant_model_description_w8a8_dynamic.json",
        "quant_model_description.json",
    ),
    _rule(
        "description-twice",
        "two descriptions disagree",
        "A `quantization_config` of config.json counts for some consumers, `quant_model_description.json` for others. A tensor must have one scheme.",
        "lm_head.weight: FLOAT in one, W8A8 in the other",
        "lm_head.weight: FLOAT in both, or one of the two removed",
    ),
    _rule(
        "optional-missing",
        "a file that the description names is not there",
        "`optional` of a description names rotations in a sub-folder, which drafters read. A copy of the folder without its sub-folders lacks them.",
        "cp model/* copy/",
        "cp -r model copy",
    ),
)

# ---- layers of a checkpoint -------------------------------------------------------------------------------------------------------------------------------

CHECKPOINT_LAYERS = (
    _rule(
        "scheme-unknown",
        "the checkpoint names a type that the consumer does not know",
        """A description gives each weight the name of a scheme. vllm-ascend looks the name up, letter by letter, and stops with NotImplementedError when it
        is not there. Writers of other versions spell some names differently.""",
        '"model.layers.0.mlp.down_proj.weight": "W8A8_DYNAMC"',
        '"model.layers.0.mlp.down_proj.weight": "W8A8_DYNAMIC"',
    ),
    _rule(
        "scheme-unsupported",
        "the consumer has no such scheme for this kind of layer, or on this device",
        """A scheme is known for a kind of layer (linear, experts, attention), for some consumers and for some devices. The notes say who has it. What a spec
        of the package does not describe cannot be checked either.""",
        "W4A8_DYNAMIC of a linear layer, --consumer vllm-ascend-main",
        "W4A8_DYNAMIC of a linear layer, --consumer vllm-ascend-0.23",
    ),
    _rule(
        "plugin-needed",
        "the consumer has the scheme only with the plugin",
        """The spec says so itself, under `added`: no class of the consumer reads such layers. It stops with NotImplementedError, unless layoutdsl is installed
        beside it and its plugin is in the mode `add`.""",
        "vllm serve DIR",
        """vllm serve DIR --additional-config '{"layoutdsl": {"mode": "add"}}'""",
    ),
    _rule(
        "format-unsupported",
        "the format of the checkpoint is not read",
        """`quant_method`, and for compressed-tensors the numbers and the format of a group, choose how the tensors are read. What no consumer reads, or what
        it reads as something else without a word, is refused here: float8 weights taken for int8, an order of activations or zero points that are passed
        over.""",
        '"quantization_config": {"quant_method": "awq", "bits": 4}',
        '"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized"}',
    ),
    _rule(
        "module-unsupported",
        "no consumer has this module quantized",
        """Embeddings look up rows, which no quantized method does. Heads of compressed-tensors, and heads on 310P, stay float. Experts that are stored in
        one tensor are not loaded by the quantized methods, which want one tensor per expert and projection.""",
        '"model.embed_tokens.weight": "W8A8_DYNAMIC"',
        '"model.embed_tokens.weight": "FLOAT"',
    ),
    _rule(
        "mixed-schemes",
        "modules that are loaded into one have different schemes",
        """Loaders put q, k and v into one parameter, gate and up into another, and all experts of a layer into two. A parameter has one dtype and one
        layout, so its members must have one scheme. vllm-ascend stops with ValueError; of experts it asks only the first, and loads the others as if they
        were like it.""",
        "q_proj: W8A8_DYNAMIC, k_proj: W8A8_DYNAMIC, v_proj: FLOAT",
        "q_proj: W8A8_DYNAMIC, k_proj: W8A8_DYNAMIC, v_proj: W8A8_DYNAMIC",
    ),
    _rule(
        "module-incomplete",
        "a member of a fused module is missing",
        "Loaders fill one parameter with all members. The part of an absent one stays as it lay in memory, and mostly no error says so.",
        "self_attn.q_proj, self_attn.v_proj",
        "self_attn.q_proj, self_attn.k_proj, self_attn.v_proj",
    ),
    _rule(
        "description-value",
        "a value of the description has the wrong type",
        "Schemes, formats and `version` are texts, `group_size` is an integer, groups and targets are mappings and lists. `1.0` is not equal to any version.",
        '"version": 1.0',
        '"version": "1.0.0"',
    ),
    _rule(
        "description-missing",
        "quantized tensors, and nothing says how",
        """Without `quant_model_description.json` and without `quantization_config` a consumer builds a float model, and loads integers into it or stops at
        the first scale that has no place.""",
        "config.json  model.safetensors",
        "config.json  model.safetensors  quant_model_description.json",
    ),
    _rule(
        "description-key-missing",
        "a quantized module that the description does not name",
        """The key of a module's weight chooses its scheme; without it vllm-ascend stops with KeyError. Of experts only the keys of expert 0 are asked.
        Scales of a quantized cache need their key as well: without it the layer's cache stays in 16 bits and the tensors have no place.""",
        '"model.layers.0.self_attn.o_proj.weight_scale": "W8A8_DYNAMIC"',
        '"model.layers.0.self_attn.o_proj.weight": "W8A8_DYNAMIC"',
    ),
    _rule(
        "description-tensor-missing",
        "the description names a module of which no file holds a tensor",
        """A file was not copied, or the description is of another model. The consumer creates the parameters, and nothing fills them. For a float module
        this is a warning; heads, drafts and vision towers may be left out.""",
        '"model.layers.61.mlp.down_proj.weight": "W8A8", in a folder of 61 layers',
        "the description of the model that the files hold",
    ),
    _rule(
        "float-but-quantized",
        "said to be float, stored quantized",
        "The consumer creates a float weight and loads integers or 8-bit floats into it, converted value by value and without their scales.",
        '"model.layers.0.mlp.down_proj.weight": "FLOAT", stored as int8 with weight_scale',
        '"model.layers.0.mlp.down_proj.weight": "W8A8_DYNAMIC"',
    ),
    _rule(
        "float-by-prefix",
        "a float module whose name begins with this layer's name",
        """vllm-ascend takes a layer that it does not fuse for float if any key of a FLOAT weight begins with the layer's name. So `mlp.gate` is float if
        `mlp.gate_proj` is, whatever its own key says.""",
        '"mlp.gate.weight": "W8A8_DYNAMIC", "mlp.gate_proj.weight": "FLOAT"',
        '"mlp.gate.weight": "W8A8_DYNAMIC", "mlp.gate_proj.weight": "W8A8_DYNAMIC"',
    ),
    _rule(
        "group-size-ignored",
        "the consumer takes another group size than the weights have",
        """For W4A16 of compressed-tensors nothing hands the group size to the scheme, which takes 32. The scales of other groups have another shape than it
        declares.""",
        '"strategy": "group", "group_size": 128',
        '"strategy": "group", "group_size": 32',
    ),
    _rule(
        "cache-type-missing",
        "scales of a cache that nobody reads",
        """Keys of single layers (`fa_k.scale`, `indexer.quant_type`, `k_proj.kv_cache_scale`) count only beside the key for the whole folder:
        `fa_quant_type`, `indexer_quant_type`, and `kv_cache_type`, which must be C8.""",
        '"model.layers.0.self_attn.k_proj.kv_cache_scale": "C8"',
        '"kv_cache_type": "C8", "model.layers.0.self_attn.k_proj.kv_cache_scale": "C8"',
    ),
    _rule(
        "config-pattern",
        "a pattern that cannot be tried",
        """A target that begins with `re:` is a regular expression of Python, tried on every module. One that repeats a group with a choice or a repetition
        in it can take longer than anyone waits; it comes from the checkpoint, so it is refused.""",
        "re:(.*_proj)*$",
        "re:.*_proj$",
    ),
    _rule(
        "method-differs",
        "two formats describe the folder",
        """A folder has a `quant_model_description.json` and a `quantization_config` of another method. Which of them counts depends on the consumer and on
        `--quantization`.""",
        'quant_model_description.json, and "quant_method": "compressed-tensors"',
        "quant_model_description.json alone",
    ),
    _rule(
        "not-quantized",
        "nothing is quantized",
        "A note: no layer of the folder has a scheme, so there is nothing to check but the files themselves.",
        "layoutdsl check float-model",
        "layoutdsl check float-model-w8a8",
    ),
)

# ---- tensors of a checkpoint against its schemes ----------------------------------------------------------------------------------------------------------

CHECKPOINT_FIT = (
    _rule(
        "partial-load",
        "a loader fills a part of a parameter only, or nothing",
        """Some loaders narrow the parameter to what the checkpoint holds, or skip a name that they do not find, and say nothing. The rest stays as the memory
        was: finite numbers, other ones on every start. So `check` reports a parameter that is larger than what is stored, or than what a rank is handed, as an
        error even where it loads; and `plan.apply` refuses a parameter in which it finds what `plan.create_parameters` filled it with: NaN, or 0x80 in
        integers. One with a default is filled with it if nothing at all was loaded.""",
        "o_proj.scale_bias: [7168, 1]    # of a row-parallel layer, which has [7168, 16]",
        "o_proj.scale_bias: [7168, 16]",
    ),
    _rule(
        "narrowing",
        "loading rounds a tensor",
        """A note: loaders copy into the dtype of the parameter. Writers store scales in float32 by design, and a model in bfloat16 keeps 8 of their 24
        bits.""",
        "weight_scale: float32    # loaded into bfloat16",
        "weight_scale: bfloat16",
    ),
    _rule(
        "config-contradicts-shapes",
        "the stated config is not what the tensors are",
        """`version` and `group_size` of a description are written by hand or by another tool than the tensors, and consumers believe them. Exactly one other
        value fits every tensor of the layer; both are printed, with the key to correct. Where only some layers contradict, their tensors are wrong.""",
        '"version": "0"        # with weight [2048, 4096] and weight_scale [4096, 1]: two rows in a byte',
        '"version": "1.0.0"',
    ),
    _rule(
        "fused-differ",
        "the members of a fused module do not agree",
        """Loaders put q, k and v side by side into one tensor, and gate and up. All must have the same inputs, the same group size and the same tensors; of a
        tensor without outputs, such as a scale per tensor, the last one loaded stays.""",
        "q_proj: weight_scale_second [4096, 16]\nk_proj: weight_scale_second [1024, 32]",
        "q_proj: weight_scale_second [4096, 16]\nk_proj: weight_scale_second [1024, 16]",
    ),
    _rule(
        "split-uneven",
        "a size is no multiple of the number of ranks",
        """Loaders give every rank the same number of outputs, inputs, heads or experts. Without expert parallelism the inner size of experts is split over all
        data x tensor parallel ranks; with it the experts are dealt out, redundant ones included.""",
        "layoutdsl check DIR -tp 3",
        "layoutdsl check DIR -tp 4",
    ),
    _rule(
        "topology-legal",
        "the numbers of ranks over which every layer can be split",
        """A note: the tensor parallel sizes from 1 to 32 for which no shard boundary cuts a packed word, a group or a tile, no requirement of a scheme is
        broken, and loaders fill every parameter of every rank. Conditions of use of the kernels are not counted; they are warnings.""",
        "layoutdsl check DIR -tp 32",
        "layoutdsl check DIR",
    ),
)

# ---- values of a checkpoint -------------------------------------------------------------------------------------------------------------------------------

CHECKPOINT_VALUES = (
    _rule(
        "values-not-finite",
        "a stored tensor holds NaN or infinities",
        """A scale that is NaN makes its outputs NaN, and through the next layer all others. Of e8m0, byte 255 is NaN; of e4m3, 0x7F and 0xFF are.""",
        "weight_scale: [0.011, nan, 0.009]",
        "weight_scale: [0.011, 0.010, 0.009]",
    ),
    _rule(
        "scale-value",
        "a scale is zero, denormal or negative",
        """A scale is what the spec's `value` multiplies a weight with or divides it by. Zero loses what it scales; a denormal has lost digits, and devices may
        take it for zero (assumed); writers make scales of magnitudes, so a negative one is most likely another tensor's bytes. The smallest e8m0, 2**-127, is
        right for a block of zeros only. Denormal in float16, negative without `range: positive`, and 2**-127 are warnings.""",
        "weight_scale: [0.011, 0.0, -0.009]",
        "weight_scale: [0.011, 0.010, 0.009]",
    ),
    _rule(
        "values-range",
        "stored values are outside of what the spec says of them",
        """An int4 that is stored by value goes from -8 to 7; a tensor with `range: positive` or `range: power_of_two` keeps that; the upper bits of a word that
        carries a narrower element are its sign or zeros. Values outside are packed bytes taken for values, or another tensor's.""",
        "weight: int8 from -128 to 127 where the scheme stores int4 by value",
        "weight: int8 from -8 to 7",
    ),
    _rule(
        "values-constant",
        "a weight, or a row of it, holds one value",
        """No training makes a row of equal weights. It was never written, or the scale is so large that everything was rounded to it. A row of zeros may be
        padding, or pruned on purpose. Rows shorter than 16 stored words are not looked at.""",
        "weight[5, :]: 3, 3, 3, 3, ...",
        "weight[5, :]: 3, -7, 0, 2, ...",
    ),
    _rule(
        "invariant-broken",
        "stored tensors contradict one another",
        """The spec's `invariants` say which tensors follow from others: `scale_bias` is eight times a sum of the weights, `deq_scale` the product of two
        scales. Where they do not fit, one of them is of another quantization, layer or expert, or the bytes of the weight are in another order. Rounding of
        the factors in the dtypes on disk is allowed for. A scheme without a redundant tensor shows neither exchanged experts nor exchanged nibbles: compare
        such a folder with `layoutdsl diff`.""",
        "scale_bias of the last calibration beside the weight of this one",
        "scale_bias = 8 * (weight * scale).sum(-1), written together with the weight",
    ),
    _rule(
        "invariant-unchecked",
        "an equation between stored tensors was not checked",
        """Values are read in blocks of rows, and an equation must be evaluated so too: sums, products, differences, and reads at indices of axes. Anything
        else is left out, and said. The equations of every bundled spec can be checked.""",
        "a right side that is no sum of products",
        "scale_bias[n] == 8 * sum[k](W[n, k])",
    ),
    _rule(
        "memory-budget",
        "the values of a tensor do not fit into the budget",
        """Weights are read block by block, whatever their size; scales, and weights that do not lie by rows of outputs, are held. What needs more than
        `--max-memory` is left out, and said.""",
        "layoutdsl check DIR --data --max-memory 1M",
        "layoutdsl check DIR --data --max-memory 256M",
    ),
    _rule(
        "file-changed",
        "bytes that the header promises cannot be read",
        """The header was read, and later the file ends before its tensors, or the disk fails. Nothing is known of their values.""",
        "a copy into the folder goes on while it is checked",
        "layoutdsl check DIR --data, after the copy",
    ),
    _rule(
        "diff-unmatched",
        "only one of two checkpoints has a tensor",
        """Tensors are matched by their names in the files, of a quantized module by the name of its weight. A name on one side alone is another model, another
        writer's spelling, or a module that was forgotten.""",
        "model.layers.3.mlp.up_proj.weight in A alone",
        "model.layers.3.mlp.up_proj.weight in both",
    ),
    _rule(
        "diff-undecoded",
        "a quantized module cannot be decoded",
        """Its tensors do not have the shapes of its scheme, so nobody can say what it means; or its scheme says nothing of its values, as compressed bytes
        do.""",
        "weight_scale of [4096, 7] where the scheme stores [4096, 8]",
        "weight_scale of [4096, 8]",
    ),
    _rule(
        "diff-shape",
        "a tensor has other shapes in two checkpoints",
        "Only tensors of one shape have a difference. Decoded weights are outputs by inputs, whatever packs them.",
        "[1024, 4096] in A, [4096, 1024] in B",
        "[1024, 4096] in both",
    ),
    _rule(
        "values-differ",
        "a tensor differs by more than was allowed",
        """The signal-to-noise ratio, 10 * log10(sum of squares / sum of squared differences), is below `--min-sqnr`, or one of the two holds NaN. int8 weights
        with a scale per output lie about 40 dB from the float model, int4 weights in groups of 128 about 20 dB (assumed, for normally distributed weights).
        A module far below its neighbours has the wrong bytes: a wrong group size, exchanged experts or nibbles end near 0 dB.""",
        "SQNR -2.9 dB among others of 20 dB",
        "SQNR 20.3 dB",
    ),
    _rule(
        "tensor-difference",
        "how far a tensor is apart in two checkpoints",
        "One row of the table of `layoutdsl diff`, in formats that know findings only. It is a note, never an error.",
        "read the table with --format text",
        "read it from --format json: SQNR, the largest error, its place",
    ),
)

# ---- the plugin -------------------------------------------------------------------------------------------------------------------------------------

PLUGIN = (
    _rule(
        "plugin-settings",
        "the plugin's settings cannot be read",
        """A switch with a word that nobody knows would be a switch that is silently off. Modes are off, guard, shadow, override and add; several are joined by
        commas, but shadow and override exclude each other. `specs` is a list of ids and paths.""",
        """--additional-config '{"layoutdsl": {"mode": "on"}}'""",
        """--additional-config '{"layoutdsl": {"mode": "override", "specs": ["W4A8_DYNAMIC.linear"]}}'""",
    ),
    _rule(
        "plugin-misfit",
        "a spec that the user named is not for a layer of its scheme",
        """The layer has other tensors than the spec declares for its configuration: another version of vllm-ascend, another format of the checkpoint, or a
        wrong spec. A bundled spec that does not fit is left alone, and vllm-ascend's own code prepares the layer; a named one stops the start.""",
        '"specs": ["my_w4a8.linear.yaml"], and the layer has no `weight_scale_second`',
        '"specs": [], with which such layers stay with vllm-ascend',
    ),
    _rule(
        "plugin-scheme",
        "a scheme cannot be added to vllm-ascend",
        """Mode `add` registers what the registry lacks: linear schemes with the forward of the spec, and schemes for experts that borrow the forward of another
        one and so must leave the tensors that it reads. Attention has no generated forward.""",
        '{"mode": "add", "specs": ["my_scheme.moe.yaml"]}',
        '{"mode": "add", "specs": [{"spec": "my_scheme.moe.yaml", "like": "W8A8_DYNAMIC"}]}',
    ),
    _rule(
        "plugin-specs-differ",
        "two processes of one server read different specs",
        """Every rank reads its specs from its own disk. The first process notes their digests in vLLM's config; a rank that finds others would compute
        something else than its neighbours.""",
        "my_scheme.linear.yaml edited on one of two nodes",
        "the same file, and the same version of layoutdsl, on every node",
    ),
)

# ---- all --------------------------------------------------------------------------------------------------------------------------------------------

GROUPS: dict[str, tuple[Rule, ...]] = {
    "files": FILES,
    "yaml": YAML,
    "shape": SHAPE,
    "expressions": EXPRESSIONS,
    "names and config": NAMES,
    "cases": CASES,
    "types": TYPES,
    "steps": STEPS,
    "index math": MATH,
    "forward and contracts": FORWARD,
    "liveness": LIVENESS,
    "plans": PLANS,
    "running": RUNTIME,
    "verify": VERIFY,
    "command line": COMMANDS,
    "files of a checkpoint": CHECKPOINT_FILES,
    "layers of a checkpoint": CHECKPOINT_LAYERS,
    "tensors of a checkpoint": CHECKPOINT_FIT,
    "values of a checkpoint": CHECKPOINT_VALUES,
    "the plugin": PLUGIN,
}

RULES: dict[str, Rule] = {rule.code: rule for group in GROUPS.values() for rule in group}
