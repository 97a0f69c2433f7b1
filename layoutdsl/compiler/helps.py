"""What to write instead, by rule: the help of a finding whose maker knows no better one.

Read where findings are made (``evaluate.fail``, ``types.reject``), so that none leaves the compiler without saying what to do.
"""

from __future__ import annotations

from layoutdsl.ir.size_functions import SIZE_FUNCTIONS

HELPS = {
    "argument-count": "`layoutdsl explain` with the name of an op shows its arguments; the functions of sizes stand in section 3 of the language",
    "argument-kind": "`layoutdsl explain` with the name of the op shows its arguments",
    "bits-width": "take an integer of the same width, or `cast` the value first",
    "bitcast-splits-element": "take a dtype at least as wide as the element; `cast` changes values",
    "call-of-packed": "call the kernel before `pack`, `widen` and `nz`",
    "case-missing": "add a case for it",
    "case-overlap": "make the conditions exclude each other, as in `plain and not row`",
    "cast-target": "cast to float16, bfloat16, float32, float64 or an integer of 8 to 64 bits; `pack` and `relayout` make small elements",
    "digits-differ": "every axis stands on both sides, down to the same digit: `int4[n, k] in int8[n//2, k | n%2]`",
    "digits-do-not-cover": "the top digit of an axis is a quotient without a remainder, as in `k//64`",
    "digits-not-a-chain": "each digit starts where the one below it ends: `n//8`, `n//2%4`, `n%2`",
    "dim-missing": "name a dim of the value as it is seen here",
    "divisor-not-a-product": "divide by a product of names and positive numbers",
    "each-not-parallel": "give every list one word per member",
    "index-as-size": "compute with tensors in `steps`; sizes and conditions are made of config, extents and numbers",
    "index-twice": "declare a second axis for the other side of a square",
    "invariant-form": "write `stored[n] == expression`",
    "is-not": "correct the type, or the stages before it",
    "lanes-do-not-fill": "the lanes of one storage element have exactly its bits: two int4 in an int8, eight in an int32",
    "let-cycle": "write one of the names in terms of config or sizes",
    "literal-inexact": "write a literal that the dtype holds exactly, or compute in a wider dtype",
    "name-clash": "take another name",
    "name-unknown": "correct the name, or declare it in `config`, `variants` or `let`",
    "no-op": "drop the stage",
    "not-a-condition": "compare it with a value, as in `weight_nz_mode != 0`",
    "not-a-digit": "write an axis `n`, a quotient `n//8`, a remainder `n%8`, both `n//2%4`, or `0`",
    "not-a-storage": "store it in one of torch's dtypes: `int4[n, k] in int8[n, k]`",
    "not-a-tensor": "a number of the layer is used by `forward` or the consumer, not by ops",
    "not-an-integer": "use an extent, a size, a number, or a config entry of type int; `none` needs a case of its own",
    "not-comparable": "compare texts with texts (in quotes), and numbers with numbers",
    "not-forward": "make it a step, and pass its result to the kernel",
    "not-math": "index math has reads, numbers, sums, operators and casts; a choice is written `a if case else b`",
    "nz-dtype": "give the dtype of the activation, as in `nz(bfloat16)`, or cast to FRACTAL_NZ before the dtype changes",
    "nz-rank": "only weights of two or more dims go to FRACTAL_NZ",
    "op-on-list": "do it before `unbind`",
    "operator-dtype": "floats have `+ - * /`, integers `+ - * // % & << >>`",
    "over-dims-differ": "list the dims as seen, each once, slowest in memory first",
    "pick-out-of-range": "keep the index below the extent for all sizes that meet `require`",
    "read-of-list": "compute before `unbind`",
    "read-of-opaque": "move it, or pass it to a kernel",
    "read-uninitialised": "give the parameter an `init`, or the step a `when`",
    "relayout-digits": "keep the axes of the value; `view` and index math change them",
    "size-condition": "decide by config, or put the fact into `require`",
    "size-function": "keep the arguments at least 1, by `require` or by the form of the expression",
    "size-operator": f"sizes have `+ - * // %`, comparisons and the functions {', '.join(SIZE_FUNCTIONS)}",
    "storage-too-narrow": "a narrower dtype is made by a `cast`, in `steps`",
    "sum-bound-twice": "sum over an index that is not on the left",
    "too-many-cases": "join facets that decide one thing, and exclude by `require` what never occurs",
    "transpose-done": "drop the stage, or name the dims in the order that it is to produce",
    "unpack-no-lanes": "`unpack` takes lanes apart; `cast` and `bitcast` change a dtype",
    "unpack-not-by-value": "take a dtype that holds every value, as int8 does for int4",
    "view-digits-differ": "list every digit of the value once, in its new place",
    "widen-not-integer": "`widen` to int16, int32 or int64; a wider float is a `cast`",
    "widen-not-native": "`unpack` or `cast` first",
}


def help_for(code: str) -> tuple[str, ...]:
    return (HELPS[code],) if code in HELPS else ()
