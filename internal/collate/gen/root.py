#!/usr/bin/env python3
"""Writes ../root.bin, the root collation of the ICU that is installed: root.py [VERSION], 72 by default.

The file is deflated. All numbers in it are varints of 7 bits, the lowest first:

    runs, then each       characters since the end of the last run, length * 2 + step, elements
    groups, then each     how many characters, which, elements
    marks, then each      characters since the end of the last range, length, combining class

Elements are their count and, for each, the primary weight as the difference to the last one that was not 0 (0, -1, 1, -2 ... as 0, 1, 2, 3 ...), the
secondary and the tertiary weight. The characters of a run weigh the same, or with step 1 each one primary weight more than the one before.
Groups are characters that weigh something else together than each by itself.

Weights are ranks: of all weights of a level that ICU has, in their order, from 1 on; 0 stays 0.
"""
import ctypes as c
import os
import sys
import zlib

version = sys.argv[1] if len(sys.argv) > 1 else "72"
i18n, common = c.CDLL(f"libicui18n.so.{version}"), c.CDLL(f"libicuuc.so.{version}")


def function(library, name, result):
    f = library[f"{name}_{version}"]
    f.restype = result
    return f


open_collator = function(i18n, "ucol_open", c.c_void_p)
open_elements = function(i18n, "ucol_openElements", c.c_void_p)
next_element = function(i18n, "ucol_next", c.c_int32)
close_elements = function(i18n, "ucol_closeElements", None)
contractions = function(i18n, "ucol_getContractionsAndExpansions", None)
combining_class = function(common, "u_getCombiningClass", c.c_uint8)
open_set = function(common, "uset_openEmpty", c.c_void_p)
count_items = function(common, "uset_getItemCount", c.c_int32)
get_item = function(common, "uset_getItem", c.c_int32)

collator = c.c_void_p(open_collator(b"", c.byref(c.c_int(0))))


def elements(s):
    """What s weighs: (primary, secondary, tertiary) of each element, without those that weigh nothing."""
    text = s.encode("utf-16-le")
    iterator = c.c_void_p(open_elements(collator, text, len(text) // 2, c.byref(c.c_int(0))))
    out = []
    while (e := next_element(iterator, c.byref(c.c_int(0)))) != -1:
        e &= 0xFFFFFFFF
        if e & 0xC0 == 0xC0 and out:  # the rest of the weights of the element before
            p, s2, t = out[-1]
            out[-1] = p | e >> 16, s2 | e >> 8 & 0xFF, t | e & 0x3F
        else:  # without the two bits that say whether it is a capital letter
            out.append((e >> 16 << 16, (e >> 8 & 0xFF) << 8, (e & 0x3F) << 8))
    close_elements(iterator)
    return tuple(e for e in out if any(e))


def groups():
    """Strings that ICU knows as a whole."""
    found, rest = c.c_void_p(open_set()), c.c_void_p(open_set())
    contractions(collator, found, rest, True, c.byref(c.c_int(0)))
    text = c.create_string_buffer(200)
    for i in range(count_items(found)):
        n = get_item(found, i, c.byref(c.c_int32()), c.byref(c.c_int32()), text, 100, c.byref(c.c_int(0)))
        if n >= 2:
            yield text.raw[: 2 * n].decode("utf-16-le")


characters = [n for n in range(0x110000) if not 0xD800 <= n < 0xE000]
single = {n: elements(chr(n)) for n in characters}
together = {s: elements(s) for s in groups()}
together = {s: e for s, e in together.items() if e != tuple(x for ch in s for x in single[ord(ch)])}

every = [e for v in (*single.values(), *together.values()) for e in v]
ranks = [{w: i for i, w in enumerate(sorted({0} | {e[k] for e in every}))} for k in range(3)]


def ranked(v):
    return tuple(tuple(ranks[k][e[k]] for k in range(3)) for e in v)


runs = []  # [first character, length, elements of the first one, step]
for n in characters:
    v = ranked(single[n])
    if runs:
        run = runs[-1]
        first, length, w, step = run
        if first + length == n and len(v) == len(w) <= 1:
            if not v:
                run[1] += 1
                continue
            ahead = v[0][0] - w[0][0]
            if v[0][1:] == w[0][1:] and (ahead in (0, 1) if length == 1 else ahead == step * length):
                run[1], run[3] = length + 1, ahead if length == 1 else step
                continue
    runs.append([n, 1, v, 0])

marks = []  # [first character, length, class]
for n in characters:
    if k := combining_class(n):
        if marks and marks[-1][0] + marks[-1][1] == n and marks[-1][2] == k:
            marks[-1][1] += 1
        else:
            marks.append([n, 1, k])

out = bytearray()
last = 0


def put(n):
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)


def put_elements(v):
    global last
    put(len(v))
    for p, s, t in v:
        put(2 * (p - last) if p >= last else 2 * (last - p) - 1)
        last = p or last
        put(s)
        put(t)


put(len(runs))
end = 0
for first, length, v, step in runs:
    put(first - end)
    put(length * 2 + step)
    put_elements(v)
    end = first + length
put(len(together))
for s in sorted(together):
    put(len(s))
    for ch in s:
        put(ord(ch))
    put_elements(ranked(together[s]))
put(len(marks))
end = 0
for first, length, k in marks:
    put(first - end)
    put(length)
    put(k)
    end = first + length

deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "root.bin"), "wb") as f:
    f.write(deflate.compress(bytes(out)) + deflate.flush())
