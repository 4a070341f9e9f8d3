#!/usr/bin/env python3
"""Makes a CouchDB file out of a replay stream and the older file.

    python3 replay.py STREAM OLDER OUT

STREAM  the replay stream, of a compaction, of a database or a view index, of a
        copy, or of a tail: prologue and body, one behind the other
OLDER   of a compaction or a copy: the older file of the same database or index, cut
        behind its header, or - if the stream needs none; of a tail: the file up to it
OUT     where to write the file that is made: the compacted file, or OLDER with
        the tail behind it; it must not exist

It needs Python 3.8 or later and nothing else. It is written from the page
replay-format.md, keeps its words and its order, and shows that the page is all
one needs. It holds everything in memory and makes some MB a second at best. A
compacted file, or a tail, that it wrote has the size and the SHA-256 that the
stream names; else it says why not, writes nothing and ends with code 1. What is
in front of a tail it copies as it is.
"""

import hashlib
import os
import struct
import sys
import threading
import zlib
from typing import Any, NamedTuple

BLOCK = 4096
RELEASE_2_3, RELEASE_3, RELEASE_MAIN = range(3)
SNAPPY, NONE = 0, 1  # compression
XXH3, MD5 = 1, 2  # checksums
M32, M64 = (1 << 32) - 1, (1 << 64) - 1


class Refused(Exception):
    """The stream, or the older file, is not what it must be."""


# What Python raises where bytes are not what they should be.
MISFITS = ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error, zlib.error


def check(ok, sentence):
    if not ok:
        raise Refused(sentence)


# ---------------------------------------------------------------- the stream


class Reader:
    """Reads numbers, strings and objects, one behind the other."""

    def __init__(self, data, what):
        self.data, self.what, self.at = data, what, 0

    def take(self, n):
        check(self.at + n <= len(self.data), "the %s ends too early" % self.what)
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self):
        n = shift = 0
        while True:
            byte = self.take(1)[0]
            n |= (byte & 127) << shift
            if byte < 128:
                check(n < 1 << 64, "the %s has a number of more than 64 bits" % self.what)
                return n
            shift += 7
            check(shift < 70, "the %s has a number of more than 64 bits" % self.what)

    def string(self):
        return self.take(self.number())

    def term(self):
        """A term that goes into the file as it is."""
        return Raw(self.string())

    def signed(self):
        n = self.number()
        return -(n + 1 >> 1) if n & 1 else n >> 1

    def delta(self, base):
        """Bytes that are made of others."""
        size, out, at = self.number(), bytearray(), 0
        while len(out) < size:
            out += self.string()
            if len(out) < size:
                n = self.number()
                at += self.signed()
                check(n and 0 <= at <= at + n <= len(base), "the %s copies what is not there" % self.what)
                out += base[at : at + n]
                at += n
        check(len(out) == size, "the %s has a delta that makes too much" % self.what)
        return bytes(out)

    def object(self, before):
        """A term, or None; before is the one of the pass before."""
        n = self.number()
        return None if n == 0 else before if n == 1 else Raw(self.take(n - 1))

    def end(self):
        check(self.at == len(self.data), "the %s has more bytes than it should" % self.what)


COMPACTION, TAIL, INDEX, COPY = b"CouchRPL", b"CouchTRP", b"CouchVRP", b"CouchCPY"


def begin(stream, kind):
    """A reader of the prologue's fields, and where the body begins."""
    r = Reader(stream, "prologue")
    check(r.take(8) == kind, "this is no replay stream: it does not begin with CouchRPL, CouchTRP, CouchVRP or CouchCPY")
    version = r.take(1)[0]
    check(version == 1, "the stream has version %d, and this program reads version 1 only" % version)
    fields = r.string()
    end = r.at
    check(r.take(32) == sha256(stream[:end]), "the prologue's SHA-256 is another: the stream is damaged")
    return Reader(fields, "prologue"), r.at


class Prologue:
    """What the stream of a compaction says before its body."""

    def __init__(self, stream):
        r, self.bytes = begin(stream, COMPACTION)
        self.release = r.number()
        self.compression = r.number()
        self.checksum = r.number()
        self.chunk_size = r.number()
        self.older_update_seq = r.number()
        self.older_documents = r.number()
        self.size = r.number()
        self.sum = r.take(32)
        self.body_size = r.number()
        self.body_sum = r.take(32)
        self.passes = r.number()
        self.security = r.term()
        self.uuid, self.epochs, self.compacted_seq = r.term(), r.term(), r.term()
        self.corrections = [(r.number(), r.string()) for _ in range(r.number())]
        r.end()
        known = self.release <= RELEASE_MAIN and self.compression in (SNAPPY, NONE) and self.checksum in (XXH3, MD5)
        check(known and self.passes and self.chunk_size, "the prologue names something that this program does not know")


class TailPrologue:
    """What the stream of a tail says before its body."""

    def __init__(self, stream):
        r, self.bytes = begin(stream, TAIL)
        self.start = r.number()
        self.size = r.number()
        self.sum = r.take(32)
        self.body_size = r.number()
        self.body_sum = r.take(32)
        r.end()


class IndexPrologue:
    """What the stream of a compacted view index says before its body."""

    def __init__(self, stream):
        r, self.bytes = begin(stream, INDEX)
        self.compression = r.number()
        self.checksum = r.number()
        self.chunk_size = r.number()
        self.older_update_seq = r.number()
        self.taken = r.number()
        self.size = r.number()
        self.sum = r.take(32)
        self.body_size = r.number()
        self.body_sum = r.take(32)
        self.corrections = [(r.number(), r.string()) for _ in range(r.number())]
        r.end()
        known = self.compression in (SNAPPY, NONE) and self.checksum in (XXH3, MD5)
        check(known and self.chunk_size, "the prologue names something that this program does not know")


def sha256(data):
    return hashlib.sha256(data).digest()


# ------------------------------------------------- Erlang's external format
#
# Integers, floats and lists are Python's; tuples are tuples; binaries are bytes.


class Atom(str):
    """An Erlang atom."""


class Raw(bytes):
    """A term as its bytes."""


NIL, UNDEFINED = Atom("nil"), Atom("undefined")


def encode(term):
    """The bytes of a term, without 131."""
    if isinstance(term, Raw):
        return bytes(term)
    if isinstance(term, bytes):
        return b"m" + struct.pack(">I", len(term)) + term
    if isinstance(term, Atom):
        return b"d" + struct.pack(">H", len(term)) + term.encode("latin-1")
    if isinstance(term, int):
        return encode_integer(term)
    if isinstance(term, float):
        return b"F" + struct.pack(">d", term)
    if isinstance(term, tuple):
        return encode_tuple([encode(e) for e in term])
    if not term:
        return b"j"
    if len(term) < 65536 and all(type(e) is int and 0 <= e < 256 for e in term):
        return b"k" + struct.pack(">H", len(term)) + bytes(term)
    return encode_list([encode(e) for e in term])


def encode_integer(n):
    if 0 <= n < 256:
        return b"a" + bytes([n])
    if -(1 << 31) <= n < 1 << 31:
        return b"b" + struct.pack(">i", n)
    digits = abs(n).to_bytes((abs(n).bit_length() + 7) // 8, "little")
    return b"n" + bytes([len(digits), n < 0]) + digits


def encode_tuple(parts):
    head = b"h" + bytes([len(parts)]) if len(parts) < 256 else b"i" + struct.pack(">I", len(parts))
    return head + b"".join(parts)


def encode_list(parts):
    """A list of terms that are encoded and are not all small integers."""
    return b"l" + struct.pack(">I", len(parts)) + b"".join(parts) + b"j" if parts else b"j"


def decode(data):
    """The term of some bytes, without 131."""
    term, at = decode_at(data, 0)
    check(at == len(data), "bytes stand behind a term")
    return term


def decode_at(data, at):
    """The term that begins at a place, and where it ends."""
    tag, at = data[at], at + 1
    if tag == 97:  # SMALL_INTEGER
        return data[at], at + 1
    if tag == 98:  # INTEGER
        return struct.unpack_from(">i", data, at)[0], at + 4
    if tag == 109:  # BINARY
        n, at = struct.unpack_from(">I", data, at)[0], at + 4
        check(at + n <= len(data), "a term is cut off")
        return bytes(data[at : at + n]), at + n
    if tag == 104:  # SMALL_TUPLE
        items, at = decode_items(data, at + 1, data[at])
        return tuple(items), at
    if tag == 105:  # LARGE_TUPLE
        items, at = decode_items(data, at + 4, struct.unpack_from(">I", data, at)[0])
        return tuple(items), at
    if tag == 106:  # NIL
        return [], at
    if tag == 107:  # STRING
        n, at = struct.unpack_from(">H", data, at)[0], at + 2
        return list(data[at : at + n]), at + n
    if tag == 108:  # LIST
        items, at = decode_items(data, at + 4, struct.unpack_from(">I", data, at)[0])
        check(data[at] == 106, "a term has a list of an unknown form")
        return items, at + 1
    if tag in (110, 111):  # SMALL_BIG, LARGE_BIG
        n, at = (data[at], at + 1) if tag == 110 else (struct.unpack_from(">I", data, at)[0], at + 4)
        size = int.from_bytes(data[at + 1 : at + 1 + n], "little")
        return -size if data[at] else size, at + 1 + n
    if tag == 116:  # MAP, of which nothing is needed
        return {}, decode_items(data, at + 4, 2 * struct.unpack_from(">I", data, at)[0])[1]
    if tag == 70:  # NEW_FLOAT
        return struct.unpack_from(">d", data, at)[0], at + 8
    if tag in (100, 118):  # ATOM, ATOM_UTF8
        n, at = struct.unpack_from(">H", data, at)[0], at + 2
        return Atom(data[at : at + n].decode("latin-1" if tag == 100 else "utf-8")), at + n
    if tag in (115, 119):  # SMALL_ATOM, SMALL_ATOM_UTF8
        n, at = data[at], at + 1
        return Atom(data[at : at + n].decode("latin-1" if tag == 115 else "utf-8")), at + n
    raise Refused("a term has the unknown tag %d" % tag)


def decode_items(data, at, n):
    items = []
    for _ in range(n):
        item, at = decode_at(data, at)
        items.append(item)
    return items, at


def elements(data):
    """The encoded elements of an encoded tuple or list."""
    tag, n, at = data[0], 0, 1
    if tag == 104:  # SMALL_TUPLE
        n, at = data[1], 2
    elif tag in (105, 108):  # LARGE_TUPLE, LIST
        n, at = struct.unpack_from(">I", data, 1)[0], 5
    else:
        check(tag == 106, "a term is neither a tuple nor a list")
    parts = []
    for _ in range(n):
        end = decode_at(data, at)[1]
        parts.append(Raw(data[at:end]))
        at = end
    check(data[at:] == (b"j" if tag == 108 else b""), "bytes stand behind a term")
    return parts


# -------------------------------------------------------------------- snappy


def compress(term, how):
    """An encoded term as it is stored."""
    return b"\x01" + snappy(b"\x83" + term) if how == SNAPPY else b"\x83" + term


def decompress(stored):
    """The encoded term of what is stored."""
    if stored[:1] == b"\x01":
        stored = unsnappy(stored[1:])
    if stored[:2] == b"\x83P":
        return zlib.decompress(stored[6:])
    check(stored[:4] != b"\x28\xb5\x2f\xfd", "the older file has a term in zstd, which this program does not read")
    check(stored[:1] == b"\x83", "a term is stored in a way that this program does not know")
    return stored[1:]


def is_compressed(stored, how):
    """Whether a term is stored in this way."""
    return stored[:1] == b"\x01" if how == SNAPPY else stored[:1] == b"\x83" and stored[1:2] != b"P"


def snappy(data):
    out = bytearray()
    n = len(data)
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    for at in range(0, len(data), 65536):
        snappy_block(out, data[at : at + 65536])
    return bytes(out)


def snappy_block(out, block):
    """Appends the elements of one block."""
    bits = 8
    while bits < 14 and 1 << bits < len(block):
        bits += 1
    table, shift = [0] * (1 << bits), 32 - bits
    done, at = 0, 1  # there are elements up to done
    while at is not None:
        at, earlier = snappy_search(block, table, shift, at)
        if at is not None:
            snappy_literal(out, block[done:at])
            at, done = snappy_copies(out, block, table, shift, at, earlier)
    snappy_literal(out, block[done:])


def snappy_search(block, table, shift, at):
    """Looks for four bytes that are at an earlier place too, and returns both places."""
    last, skip = len(block) - 15, 32
    while True:
        following = at + (skip >> 5)
        if following > last:
            return None, None
        word = block[at : at + 4]
        slot = (int.from_bytes(word, "little") * 0x1E35A7BD & M32) >> shift
        earlier, table[slot] = table[slot], at
        if block[earlier : earlier + 4] == word:
            return at, earlier
        at, skip = following, skip + 1


def snappy_copies(out, block, table, shift, at, earlier):
    """Appends copies, and returns where to search on, if at all, and up to where there are elements."""
    while True:
        n = 4
        while at + n < len(block) and block[earlier + n] == block[at + n]:
            n += 1
        snappy_copy(out, at - earlier, n)
        at += n
        if at >= len(block) - 15:
            return None, at
        slot = (int.from_bytes(block[at - 1 : at + 3], "little") * 0x1E35A7BD & M32) >> shift
        table[slot] = at - 1
        word = block[at : at + 4]
        slot = (int.from_bytes(word, "little") * 0x1E35A7BD & M32) >> shift
        earlier, table[slot] = table[slot], at
        if block[earlier : earlier + 4] != word:
            return at + 1, at


def snappy_literal(out, data):
    n = len(data) - 1
    if n < 0:
        return
    if n < 60:
        out.append(n << 2)
    elif n < 256:
        out += bytes([60 << 2, n])
    else:
        out += bytes([61 << 2, n & 255, n >> 8])
    out += data


def snappy_copy(out, distance, n):
    while n >= 68:
        snappy_element(out, distance, 64)
        n -= 64
    if n > 64:
        snappy_element(out, distance, 60)
        n -= 60
    snappy_element(out, distance, n)


def snappy_element(out, distance, n):
    if n < 12 and distance < 2048:
        out += bytes([1 | n - 4 << 2 | distance >> 8 << 5, distance & 255])
    else:
        out += bytes([2 | n - 1 << 2, distance & 255, distance >> 8])


def unsnappy(data):
    r = Reader(data, "snappy block")
    size, out = r.number(), bytearray()
    while r.at < len(data):
        tag = r.take(1)[0]
        n = (tag >> 2) + 1
        if tag & 3 == 0:
            if n > 60:
                n = int.from_bytes(r.take(n - 60), "little") + 1
            out += r.take(n)
            continue
        if tag & 3 == 1:
            n, distance = (tag >> 2 & 7) + 4, tag >> 5 << 8 | r.take(1)[0]
        else:
            distance = int.from_bytes(r.take(2 if tag & 3 == 2 else 4), "little")
        check(0 < distance <= len(out), "a snappy block is damaged")
        begin = len(out) - distance
        part = out[begin : begin + n]
        while len(part) < n:  # it overlaps itself
            part += part[: n - len(part)]
        out += part
    check(len(out) == size, "a snappy block is damaged")
    return bytes(out)


# ----------------------------------------------------------------- checksums
#
# XXH3 of 128 bits with seed 0, for more than 16 bytes: headers and bodies always have more.

PRIME32_1, PRIME32_2, PRIME32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
PRIME64_1, PRIME64_2, PRIME64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
PRIME64_4, PRIME64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def checksum(data, how):
    return hashlib.md5(data).digest() if how == MD5 else xxh3(data)


def xxh3(data):
    """The 16 bytes: the upper 8 first, each with its highest byte first."""
    check(len(data) > 16, "a header or a body is too short")
    low, high = xxh3_long(data) if len(data) > 240 else xxh3_short(data)
    return struct.pack(">QQ", high, low)


def fold(a, b):
    product = a * b
    return (product ^ product >> 64) & M64


def avalanche(h):
    h = (h ^ h >> 37) * 0x165667919E3779F9 & M64
    return h ^ h >> 32


def mix(low, high, data, a, b, secret):
    """Mixes the 16 bytes at a and those at b with 32 of the secret."""
    a1, a2 = struct.unpack_from("<QQ", data, a)
    b1, b2 = struct.unpack_from("<QQ", data, b)
    s1, s2, s3, s4 = struct.unpack_from("<4Q", SECRET, secret)
    low = (low + fold(a1 ^ s1, a2 ^ s2) & M64) ^ (b1 + b2 & M64)
    high = (high + fold(b1 ^ s3, b2 ^ s4) & M64) ^ (a1 + a2 & M64)
    return low, high


def xxh3_short(data):
    """For 17 to 240 bytes."""
    n = len(data)
    low, high = n * PRIME64_1 & M64, 0
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            low, high = mix(low, high, data, 16 * i, n - 16 * i - 16, 32 * i)
    else:
        for i in range(0, 128, 32):
            low, high = mix(low, high, data, i, i + 16, i)
        low, high = avalanche(low), avalanche(high)
        for i in range(128, n - 31, 32):
            low, high = mix(low, high, data, i, i + 16, i - 125)
        low, high = mix(low, high, data, n - 16, n - 32, 103)
    last = low * PRIME64_1 + high * PRIME64_4 + n * PRIME64_2 & M64
    return avalanche(low + high & M64), -avalanche(last) & M64


def xxh3_long(data):
    """For more than 240 bytes."""
    n = len(data)
    acc = [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1]
    for stripe in range((n - 1) // 64):
        accumulate(acc, data, 64 * stripe, stripe % 16 * 8)
        if stripe % 16 == 15:
            for i, key in enumerate(struct.unpack_from("<8Q", SECRET, 128)):
                acc[i] = (acc[i] ^ acc[i] >> 47 ^ key) * PRIME32_1 & M64
    accumulate(acc, data, n - 64, 121)
    return merge(acc, 11, n * PRIME64_1 & M64), merge(acc, 117, ~(n * PRIME64_2) & M64)


def accumulate(acc, data, at, secret):
    values, keys = struct.unpack_from("<8Q", data, at), struct.unpack_from("<8Q", SECRET, secret)
    for i in range(8):
        key = values[i] ^ keys[i]
        acc[i] = acc[i] + values[i ^ 1] + (key & M32) * (key >> 32) & M64


def merge(acc, secret, h):
    keys = struct.unpack_from("<8Q", SECRET, secret)
    for i in range(0, 8, 2):
        h += fold(acc[i] ^ keys[i], acc[i + 1] ^ keys[i + 1])
    return avalanche(h & M64)


# ---------------------------------------------------------- blocks and chunks


class File:
    """A file."""

    def __init__(self, checksum_kind, data=b""):
        self.data, self.checksum = bytearray(data), checksum_kind

    def append(self, payload, with_checksum=False):
        """Appends a chunk and returns its offset and its size."""
        offset, head = len(self.data), struct.pack(">I", len(payload) | with_checksum << 31)
        if with_checksum:
            head += checksum(payload, self.checksum)
        self._append(head + payload)
        return offset, len(self.data) - offset

    def header(self, term):
        """Appends a header."""
        self.data += bytes(-len(self.data) % BLOCK)
        payload = b"\x83" + encode(term)
        self.data += b"\x01"
        self._append(struct.pack(">I", len(payload) + 16) + checksum(payload, self.checksum) + payload)

    def _append(self, data):
        if len(self.data) % BLOCK == 0:
            self.data.append(0)
        at = 0
        while at < len(data):
            part = data[at : at + BLOCK - len(self.data) % BLOCK]
            self.data += part
            at += len(part)
            if len(self.data) % BLOCK == 0:
                self.data.append(0)


    def read(self, offset, n):
        """So many bytes from an offset on, without the markers."""
        out = bytearray()
        while len(out) < n:
            offset += offset % BLOCK == 0
            part = self.data[offset : offset + min(n - len(out), BLOCK - offset % BLOCK)]
            check(part, "the older file is cut off, or damaged: at %d" % offset)
            out += part
            offset += len(part)
        return bytes(out)

    def chunk(self, offset):
        """The payload of a chunk."""
        n, skip = int.from_bytes(self.read(offset, 4), "big"), 4
        if n >> 31:
            n, skip = n & (1 << 31) - 1, 20
        check(n <= len(self.data), "the older file is damaged: a chunk at %d" % offset)
        return self.read(offset, skip + n)[skip:]

    def newest_header(self):
        """The newest header with 131, where it ends, and the kind of its checksum."""
        for at in range((len(self.data) - 1) // BLOCK * BLOCK, -1, -BLOCK):
            n = int.from_bytes(self.data[at + 1 : at + 5], "big")
            end = behind(at, 4 + n)
            if self.data[at] == 1 and n > 32 and end <= len(self.data):
                payload = self.read(at, 4 + n)[4:]
                for kind in (XXH3, MD5):
                    if checksum(payload[16:], kind) == payload[:16]:
                        return payload[16:], end, kind
        raise Refused("the older file has no header")


def behind(offset, n):
    """Where so many bytes that begin at an offset end, with the markers."""
    plain = offset - (offset + BLOCK - 1) // BLOCK + n  # without them
    return plain + plain // (BLOCK - 1) + 1


# -------------------------------------------------------------------- B-trees


class Entry(NamedTuple):
    """An entry of a node. Those of inner nodes are pointers to others."""

    key: Any  # bytes or an integer
    term: bytes  # {Key, Value} or {LastKey, {Offset, Reduction, Size}}, encoded
    reduction: Any  # a leaf's: of this entry alone
    offset: int = -1
    size: int = 0


def leaf_entry(key, value, reduction):
    return Entry(key, encode((key, value)), reduction)


def add_counts(reductions):
    return sum(reductions)


def add_sizes(reductions):
    counts = [sum(r[i] for r in reductions) for i in (0, 1)]
    return (counts[0], counts[1], size_info(sum(r[2][1] for r in reductions), sum(r[2][2] for r in reductions)))


def add_nothing(reductions):
    return []


def size_info(active, external):
    return (Atom("size_info"), active, external)


class Tree:
    """A tree in a file. What is written stays in memory, so none of it is read again."""

    def __init__(self, file, compression, chunk_size, reduce):
        self.file, self.compression, self.chunk_size, self.reduce = file, compression, chunk_size, reduce
        self.root = None
        self.nodes = {}  # kind and entries by their offsets

    def state(self):
        return NIL if self.root is None else (self.root.offset, self.root.reduction, self.root.size)

    def node(self, offset):
        """The kind and the entries of a node."""
        return self.nodes[offset]

    def find(self, key):
        """The entry of a key, or None."""
        entry, kind = self.root, b"kp_node"
        while entry is not None and kind == b"kp_node":
            kind, entries = self.node(entry.offset)
            entry = next((e for e in entries if e.key >= key), None)
        return entry if entry is not None and entry.key == key else None

    def modify(self, insertions, removals=()):
        actions = [(key, 0, None) for key in removals] + [(e.key, 1, e) for e in insertions]
        actions.sort(key=lambda a: a[:2])
        pointers = self.modify_node(self.root, actions)
        while len(pointers) > 1:
            pointers = self.write(b"kp_node", pointers)
        self.root = pointers[0] if pointers else None

    def modify_node(self, pointer, actions):
        """Returns the pointers that take a pointer's place."""
        kind, old = (b"kv_node", []) if pointer is None else self.node(pointer.offset)
        new = self.modify_leaf(old, actions) if kind == b"kv_node" else self.modify_inner(old, actions)
        if not new:
            return []
        if new == old:
            return [pointer]
        if len(old) > 1 and old[0] in new:
            at = new.index(old[0])
            end = at + len(old)
            if new[at:end] == old and 2 * sum(len(e.term) + 1 for e in old) >= self.chunk_size:
                return self.write(kind, new[:at]) + [pointer] + self.write(kind, new[end:])
        return self.write(kind, new)

    def modify_leaf(self, old, actions):
        entries = {e.key: e for e in old}
        for key, _, entry in actions:
            entries.pop(key, None)
            if entry is not None:
                entries[key] = entry
        return [entries[key] for key in sorted(entries)]

    def modify_inner(self, old, actions):
        new, at = [], 0
        for child in old:
            end = at
            while end < len(actions) and (child is old[-1] or actions[end][0] <= child.key):
                end += 1
            new += self.modify_node(child, actions[at:end]) if end > at else [child]
            at = end
        return new

    def write(self, kind, entries):
        """Writes a list as nodes and returns pointers to them."""
        return [self.write_node(kind, part) for part in self.parts(entries)]

    def parts(self, entries):
        size = 7 + sum(len(e.term) for e in entries)
        if size <= self.chunk_size:
            return [entries] if entries else []
        threshold = size // (size // self.chunk_size + 1)
        parts, part, taken = [], [], 0
        for e in entries:
            part.append(e)
            if taken + len(e.term) + 1 > threshold and len(part) > 1:
                parts.append(part)
                part, taken = [], 0
            else:
                taken += len(e.term) + 1
        if len(part) == 1 and parts:
            parts[-1] += part
        elif part:
            parts.append(part)
        return parts

    def write_node(self, kind, entries):
        term = encode_tuple([encode(Atom(kind.decode())), encode_list([e.term for e in entries])])
        offset, size = self.file.append(compress(term, self.compression))
        self.nodes[offset] = kind, entries
        size += sum(e.size for e in entries)
        reduction = self.reduction_of(kind, entries)
        key = entries[-1].key
        return Entry(key, encode((key, (offset, reduction, size))), reduction, offset, size)

    def reduction_of(self, kind, entries):
        return self.reduce([e.reduction for e in entries])


# ------------------------------------------------------------- the older file


class Document(NamedTuple):
    """A document as the compactor reads it."""

    update_seq: int
    id: bytes
    deleted: int
    revisions: list
    source: Any  # where its bodies are: the older file or the stream


class Older:
    """The older file, and its documents."""

    def __init__(self, data, prologue):
        self.file = File(prologue.checksum, data)
        header = decode(self.file.newest_header()[0][1:])
        check(isinstance(header, tuple) and len(header) > 5, "the older file's last header is of an unknown form")
        check(header[2] == prologue.older_update_seq, "the older file has update_seq %s at its header, and the stream"
              " is for %d" % (header[2], prologue.older_update_seq))
        count = 0 if header[5] == NIL else header[5][1]  # of the seq tree
        check(count == prologue.older_documents, "the older file has %s documents at its header, and the stream is"
              " for %d" % (count, prologue.older_documents))
        self.documents = self.below(header[5])

    def below(self, state):
        """The documents below a node of the seq tree."""
        kind, entries = decode(decompress(self.file.chunk(state[0])))
        for key, value in entries:
            if kind == "kp_node":
                check(value[0] < state[0], "the older file is damaged: a node at %d points behind itself" % state[0])
                yield from self.below(value)
            else:
                yield Document(key, value[0], value[1], value[3], self)

    def next(self):
        d = next(self.documents, None)
        check(d is not None, "the older file has fewer documents than the stream needs")
        return d

    def place(self, leaf):
        """In which order leaves are copied; those of the same place from left to right."""
        return 0

    def summary(self, leaf):
        """The body of a leaf as it is stored, and its list of attachments."""
        body, attachments = summary(self.file.chunk(leaf[1]))
        return body, decode(attachments)

    def attachment(self, pointers):
        """The chunks of an attachment."""
        return [self.file.chunk(p[0]) for p in pointers]


def summary(payload):
    """The body of a summary as it is stored, and its list of attachments, encoded."""
    body, attachments = decode(payload[1:])
    return body, decompress(attachments) if isinstance(attachments, bytes) else encode(attachments)


class New:
    """The payloads of new documents, which stand in the stream in the order in which they are asked for."""

    def __init__(self, reader, compression):
        self.reader, self.compression = reader, compression

    def place(self, leaf):
        return leaf[1]

    def summary(self, leaf):
        kind, r = self.reader.number(), self.reader
        check(kind in (1, 2), "the body has a payload of the unknown kind %d" % kind)
        stored = r.string()
        return compress(stored, self.compression) if kind == 1 else stored, decode(r.string())

    def attachment(self, pointers):
        chunks = []
        for _ in pointers:
            kind = self.reader.number()
            check(kind == 0, "the body has a payload of the unknown kind %d" % kind)
            chunks.append(self.reader.string())
        return chunks


# -------------------------------------------------------------- the compactor


class Compactor:
    """Writes the file as CouchDB's compactor does."""

    def __init__(self, prologue, body, older):
        self.p, self.body, self.older = prologue, body, older
        self.new = New(body, prologue.compression)
        self.main, self.first = prologue.release == RELEASE_MAIN, True
        self.internal = prologue.compression if self.main else SNAPPY  # of what ignored the setting before main
        self.file = File(prologue.checksum)
        self.id_tree = self.tree(self.internal, add_sizes)
        self.seq_tree = self.tree(prologue.compression, add_counts)
        self.local_tree = self.tree(prologue.compression, add_nothing)
        self.purge_tree = self.tree(self.internal, add_counts)
        self.purge_seq_tree = self.tree(self.internal, add_counts)
        self.update_seq, self.revs_limit, self.purge_infos_limit = 0, 1000, 1000
        self.compacted_seq = prologue.compacted_seq
        self.security_at, self.props_at, self.time_seq_at = NIL, UNDEFINED, UNDEFINED if self.main else 0
        self.security = self.props = self.time_seq = None  # of the pass
        self.time_seq_written = None

    def tree(self, compression, reduce):
        return Tree(self.file, compression, self.p.chunk_size, reduce)

    def header(self):
        """The database's header."""
        old = self.p.release == RELEASE_2_3
        trees = [self.id_tree, self.seq_tree, self.local_tree, self.purge_tree, self.purge_seq_tree]
        h = [Atom("db_header"), 7 if old else 8, self.update_seq, self.time_seq_at] + [t.state() for t in trees]
        h += [self.security_at, self.revs_limit, self.p.uuid, self.p.epochs, self.compacted_seq, self.purge_infos_limit]
        return tuple(h if old else h + [self.props_at])

    def append_term(self, term):
        return self.file.append(compress(term, self.p.compression))[0]

    def run(self):
        self.file.header(self.header())
        self.security_at = self.append_term(self.p.security)
        self.file.header(self.header())
        for _ in range(self.p.passes):
            self.run_pass()
            self.first = False
        swap = self.body.number()
        check(swap < 2, "the body has the unknown flag %d for the swap" % swap)
        if swap:
            self.swap()
        self.body.end()
        return self.file.data

    def run_pass(self):
        b = self.body
        update_seq = b.number()
        self.security, self.props = b.object(self.security), b.object(self.props)
        self.time_seq = b.object(self.time_seq)
        self.purges()
        self.new_seq, self.copied = 0, []
        while not self.batch():
            pass
        self.security_at = self.append_term(self.security or encode([]))
        if self.p.release > RELEASE_2_3:
            self.props_at = self.append_term(self.props or encode([]))
        self.copy_time_seq()
        self.update_seq = update_seq
        self.checkpoint()
        self.checkpoint()
        self.build_id_tree()
        self.file.header(self.header())

    def copy_time_seq(self):
        if self.main and self.time_seq is not None and self.time_seq != self.time_seq_written:
            self.time_seq_at, self.time_seq_written = self.append_term(self.time_seq), self.time_seq

    def checkpoint(self):
        self.file.header((Atom("comp_header"), self.header(), Raw(self.body.term())))

    def purges(self):
        purges, batch = [], []
        for _ in range(self.body.number()):
            purge_seq = decode(self.body.string())
            uuid, id, revisions = decode(self.body.string())
            flags = self.body.number()
            check(flags < 6, "the body has the unknown flags %d for a purge" % flags)
            purges.append((flags, (purge_seq, uuid, id, revisions, flags & 1)))
        for flags, purge in purges:
            batch.append(purge)
            if flags > 1:
                self.purge_batch(batch)
                batch = []
            if flags & 4:
                self.checkpoint()
        self.purge_batch(batch)

    def purge_batch(self, batch):
        self.purge_tree.modify([leaf_entry(uuid, (seq, id, revs), 1) for seq, uuid, id, revs, _ in batch])
        self.purge_seq_tree.modify([leaf_entry(seq, (uuid, id, revs), 1) for seq, uuid, id, revs, _ in batch])
        gone = {id for _, _, id, _, there in batch if not there}
        if not self.first and gone:
            seqs = self.seqs_of(gone)
            self.id_tree.modify([], seqs.keys())
            self.seq_tree.modify([], seqs.values())

    def seqs_of(self, ids):
        """The update_seqs of those documents that the file has."""
        found = [self.id_tree.find(id) for id in ids]
        return {e.key: decode(e.term)[1][0] for e in found if e is not None}

    def batch(self):
        """Copies a batch, and says whether it ends the pass."""
        documents, end = self.steps()
        check(documents or end == 2, "the body has a batch without documents")
        copied = [self.copy(d) for d in sorted(documents, key=lambda d: d.id)]
        if copied:
            removed = [] if self.first else self.seqs_of({c.id for c in copied}).values()
            self.seq_tree.modify([leaf_entry(c.update_seq, c.value(c.id), 1) for c in copied], removed)
        self.copied += copied
        if end == 1:
            self.update_seq = max(c.update_seq for c in copied)
            self.checkpoint()
        return end == 2

    def steps(self):
        documents = []
        while True:
            n, kind = divmod(self.body.number(), 4)
            if kind == 0 and n == 3:
                check(not documents, "the body has an interruption that is not in front of a batch")
                self.file.data += self.body.string()
                continue
            if kind == 0:
                check(n <= 2, "the body has a batch with the unknown end %d" % n)
                return documents, n
            if kind == 3:
                for _ in range(n):
                    self.new_seq += self.body.number()
                    id, deleted, _, revisions = decode(self.body.string())
                    documents.append(Document(self.new_seq, id, deleted, revisions, self.new))
                continue
            check(self.older is not None, "the stream needs the older file")
            for _ in range(n):
                d = self.older.next()
                if kind == 1:
                    documents.append(d)

    def copy(self, d):
        """Copies a document's leaves into the file."""
        values = []
        for _, revision in d.revisions:
            leaf_values(revision, values)
        leaves = {}
        for i in sorted(range(len(values)), key=lambda i: d.source.place(values[i])):
            leaves[i] = self.copy_leaf(d, values[i])
        leaves = [leaves[i] for i in range(len(values))]
        stored = with_leaves(d.revisions, iter([leaf.stored() for leaf in leaves]))
        attached = sum(n for leaf in leaves for _, n in leaf.attached)
        active = sum(leaf.active for leaf in leaves) + attached
        external = sum(leaf.external for leaf in leaves) + attached
        return Copied(d.update_seq, d.id, d.deleted, Raw(encode(stored)), active, external)

    def copy_leaf(self, d, value):
        """Copies the attachments and the summary of a leaf."""
        deleted, _, seq, (_, external) = value[:4]
        body, attachments = d.source.summary(value)
        attachments = [a[:2] + (self.copy_attachment(d, a[2]),) + a[3:] for a in attachments]
        body, external = self.body_of(body, external)
        summary = b"\x83" + encode((body, compress(encode(attachments), self.p.compression)))
        offset, active = self.file.append(summary, with_checksum=True)
        return Leaf(deleted, offset, seq, active, external, [(a[2], a[3]) for a in attachments])

    def body_of(self, stored, external):
        """A body as it is stored in the new file, and its external size."""
        same = is_compressed(stored, self.p.compression)
        if same and external and self.p.release > RELEASE_2_3:
            return stored, external
        plain = decompress(stored)
        if external == 0 or self.p.release == RELEASE_2_3:
            external = 1 + len(plain)
        return stored if same else compress(plain, self.p.compression), external

    def copy_attachment(self, d, pointers):
        """Copies the chunks of an attachment and returns pointers to the new ones."""
        copied, held = [], b""

        def write():
            copied.append((self.file.append(held)[0], len(held)))

        for chunk in d.source.attachment(pointers):
            full = len(held) + len(chunk) > 4096
            held += chunk
            if full:
                write()
                held = b""
        if held:
            write()
        return copied

    def build_id_tree(self):
        records, older = [], {}  # older copies of a document are there if the compaction was interrupted
        for c in sorted(self.copied, key=lambda c: (c.id, c.update_seq)):
            if records and records[-1].id == c.id:
                older.setdefault(c.id, []).append(records.pop().update_seq)
            records.append(c)
        for at in range(0, len(records), 1001):
            part = records[at : at + 1001]
            self.id_tree.modify([leaf_entry(c.id, c.value(c.update_seq), c.reduction()) for c in part])
            gone = [seq for c in part for seq in older.get(c.id, [])]
            if gone:
                self.seq_tree.modify([], gone)

    def swap(self):
        b = self.body
        self.compacted_seq, self.revs_limit, self.purge_infos_limit = b.number(), b.number(), b.number()
        self.time_seq = b.object(self.time_seq)
        self.local_tree.modify([self.local_entry() for _ in range(b.number())])
        self.copy_time_seq()
        self.file.header(self.header())

    def local_entry(self):
        key, value = self.body.term(), self.body.term()
        return Entry(decode(key), encode((key, value)), [])


def leaf_values(revision, values):
    """Appends the values of the leaves at and below a revision, from left to right."""
    _, value, children = revision
    if not children:
        values.append(value)
    for child in children:
        leaf_values(child, values)


def with_leaves(revisions, values):
    """Revisions with other values: those of the leaves, from left to right, and [] for all others."""

    def change(revision):
        id, _, children = revision
        return (id, [] if children else next(values), [change(child) for child in children])

    return [(position, change(revision)) for position, revision in revisions]


class Leaf(NamedTuple):
    """A leaf in the new file."""

    deleted: int
    offset: int
    seq: int
    active: int
    external: int
    attached: list  # pairs of pointers and length

    def stored(self):
        """The value that the trees have."""
        return (self.deleted, self.offset, self.seq, (self.active, self.external), self.attached)

class Copied(NamedTuple):
    """A document as it is in the new file."""

    update_seq: int
    id: bytes
    deleted: int
    revisions: Raw  # as the trees have them
    active: int
    external: int

    def value(self, first):
        """The value in the id tree, which has update_seq first, or in the seq tree, which has the id."""
        return (first, self.deleted, (self.active, self.external), self.revisions)

    def reduction(self):
        return (1 - self.deleted, self.deleted, size_info(self.active, self.external))


# ------------------------------------------------------------------------ tails


class Server:
    """Appends to the file what the server did."""

    def __init__(self, prologue, body, older):
        self.body, self.end = body, prologue.start + prologue.size
        self.file = File(XXH3, older)
        self.header, end, self.file.checksum = self.file.newest_header()
        check(end == len(older), "the older file does not end with a header")
        self.compression = self.purge_compression = SNAPPY
        self.chunk_size = 1279
        self.expected = None  # the header that nodes were written for
        self.pending = []
        self.chunks, self.terms = [], []  # those that were counted: pointers, and offsets
        self.told, self.others = 0, []
        self.nodes = {}  # of all trees, by their offsets

    def run(self):
        while self.step(self.body.number(), 8):
            check(len(self.file.data) <= self.end, "the tail becomes longer than the prologue says")
        self.body.end()
        return self.file.data

    def step(self, kind, last):
        """Does a step, and says whether more follow. Kinds beyond the last one are not for here."""
        b = self.body
        check(kind <= last, "the body has a step of the unknown kind %d" % kind)
        if kind == 1:
            self.file.data += b.string()
        elif kind == 2:
            chunk = b.string()
            self.chunks.append((self.file.append(chunk)[0], len(chunk)))
        elif kind == 3:
            self.terms.append(self.file.append(compress(b.string(), self.compression))[0])
        elif kind == 4:
            self.file.append(b.string(), with_checksum=True)
        elif kind == 5:
            self.step_body()
        elif kind == 6:
            self.step_nodes()
        elif kind == 7:
            self.step_header()
        elif kind == 8:
            self.step_settings()
        return kind != 0

    def step_settings(self):
        b = self.body
        self.compression, self.purge_compression = b.number(), b.number()
        self.chunk_size, self.file.checksum = b.number(), b.number()
        known = self.compression in (SNAPPY, NONE) and self.purge_compression in (SNAPPY, self.compression)
        check(known and self.chunk_size and self.file.checksum in (XXH3, MD5), "the body has unknown settings")

    def step_header(self):
        expected, form = self.header if self.expected is None else self.expected, self.body.number()
        if form == 1:
            expected = self.body.string()
            check(expected[:1] == b"\x83", "the body has a header that is no term")
        elif form > 1:
            expected = b"\x83" + encode_tuple(self.changed(elements(expected[1:]), form - 1))
        self.header = expected
        self.file.header(Raw(expected[1:]))
        self.expected, self.pending = None, []

    def changed(self, header, n):
        """The elements of a header of which n become others."""
        last = -1
        for _ in range(n):
            at, term = self.body.number(), self.body.number()
            check(last < at < len(header), "the body changes element %d of a header behind element %d, of %d"
                  % (at, last, len(header)))
            check(term <= len(self.terms), "the body has a header that points to a term that the tail does not have")
            header[at] = encode(self.terms[-term]) if term else self.body.term()
            last = at
        return header

    def database(self):
        """The elements of the newest header, which must be that of a database."""
        header = elements(self.header[1:])
        check(len(header) > 9 and decode(header[0]) == "db_header", "the body has nodes, or names an older body, behind"
              " another header than that of a database")
        return header

    def tree(self, header, at):
        """A tree of a header."""
        compression = self.compression if at < PURGE_TREE else self.purge_compression
        return ReadTree(self, decode(header[at]), compression, *REDUCTIONS[at])

    def step_body(self):
        b, form = self.body, self.body.number()
        known = form in (0, 1, 4, 5, 8, 9, 10, 12, 13, 14)
        check(known, "the body has a document's body of the unknown form %d" % form)
        stored, older = self.older_body() if form & 8 else (b"", b"j")
        if form & 3 == 2:
            body = compress(b.delta(decompress(stored)), self.compression)
            attachments = b.delta(encode_list(with_pointers(older, lambda: [])))
        else:
            body = b.string() if form & 3 == 1 else compress(b.string(), self.compression)
            attachments = b.string()
        self.pointed_to = len(self.file.data)
        attachments = encode_list(with_pointers(attachments, lambda: self.pointers(elements(older))))
        payload = b"\x83" + encode((body, compress(attachments, self.compression)))
        offset, size = self.file.append(payload, with_checksum=True)
        if form & 4:
            attached = sorted((a[2], a[3]) for a in decode(attachments))
            self.pending.append((offset, size, [a for i, a in enumerate(attached) if a not in attached[:i]]))

    def older_body(self):
        """An older body as it is stored, and its list of attachments, encoded."""
        header = self.database()
        update_seq, leaf = decode(header[2]) - self.body.number(), self.body.number()
        entry = self.tree(header, SEQ_TREE).find(update_seq)
        check(entry is not None, "the file has no document with the update_seq %d, whose body the stream needs"
              % update_seq)
        values = []
        for _, revision in decode(elements(elements(entry.term)[1])[3]):
            leaf_values(revision, values)
        values = [v for v in values if is_leaf(v)]
        check(leaf < len(values), "the document with the update_seq %d has %d leaf values, and the stream needs number"
              " %d" % (update_seq, len(values), leaf))
        return summary(self.file.chunk(values[leaf][1]))

    def pointers(self, older):
        """The pointers to the chunks of an attachment; older are the attachments of the older body, encoded."""
        where = self.body.number()
        if where == 0:
            return [self.anywhere() for _ in range(self.body.number())]
        if where == 1:
            return self.counted()
        which = where - 2
        check(which < len(older), "the body needs attachment %d of an older body that has %d" % (which, len(older)))
        return elements(older[which])[2]

    def anywhere(self):
        """A pointer to a chunk that is anywhere in the file."""
        offset, n = self.pointed_to + self.body.signed(), self.body.number()
        self.pointed_to = behind(offset, 4 + n)
        return offset, n

    def counted(self):
        """The pointers to chunks of the tail, told in runs."""
        pointers, at = [], len(self.chunks)
        for _ in range(self.body.number()):
            at, n = at + self.body.signed(), self.body.number()
            known = 0 <= at <= at + n <= len(self.chunks)
            check(known, "the body has an attachment of chunks that the tail does not have")
            pointers += self.chunks[at : at + n]
            at += n
        return pointers

    def step_nodes(self):
        """Writes the nodes of a commit."""
        check(self.expected is None, "the body has the nodes of a commit twice")
        c = Commit(self, self.database())
        self.told = self.body.number()
        c.modify()
        check(self.told == 0, "the body tells of more nodes than a commit has")
        self.expected = b"\x83" + encode_tuple(c.header)
        for offset in self.others:
            del self.nodes[offset]  # which is not what was told
        self.others = []
        if len(self.nodes) > 20000:
            self.nodes.clear()

    def append(self, node):
        """Appends a node, or what the stream tells instead."""
        while self.told == 1:
            instead = self.body.number()
            check(instead < 2, "the body tells something unknown of a node: %d" % instead)
            if instead:
                offset, size = self.file.append(self.body.string())
                self.others.append(offset)
                self.told = self.body.number()
                return offset, size
            kind = self.body.number()
            check(kind, "the body has a step of the unknown kind 0")
            self.step(kind, 5)
            self.told = self.body.number()
        self.told = max(self.told - 1, 0)
        return self.file.append(node)


def with_pointers(attachments, pointers):
    """The encoded tuples of an encoded list of attachments, with other pointers."""
    tuples = [elements(a) for a in elements(attachments)]
    check(all(len(a) == 8 for a in tuples), "an attachment is no tuple of eight")
    return [encode_tuple(a[:2] + [encode(pointers())] + a[3:]) for a in tuples]


# The trees, by their places in a header, from 0 on: what their reductions are, of several and of one value.
ID_TREE, SEQ_TREE, LOCAL_TREE, PURGE_TREE, PURGE_SEQ_TREE = range(4, 9)
REDUCTIONS = {
    ID_TREE: (add_sizes, lambda value: sizes_of(elements(value))),
    SEQ_TREE: (add_counts, lambda value: 1),
    LOCAL_TREE: (add_nothing, lambda value: []),
    PURGE_TREE: (add_counts, lambda value: 1),
    PURGE_SEQ_TREE: (add_counts, lambda value: 1),
}


def sizes_of(value):
    deleted, (active, external) = decode(value[1]), decode(value[2])
    return (1 - deleted, deleted, size_info(active, external))


def is_leaf(value):
    """Whether the value of a revision is {deleted, Offset, seq, {size, external}, Attachments}."""
    if not has_five(value) or not isinstance(value[3], tuple) or len(value[3]) != 2:
        return False
    return isinstance(value[1], int) and isinstance(value[3][0], int)


def has_five(value):
    return isinstance(value, tuple) and len(value) == 5


def bare_value(value):
    """The value of a revision without children in a delta's base."""
    return (value[0], 0, value[2], (0, value[3][1]), []) if is_leaf(value) else value


def bare(value):
    """The elements of a document's value in the id tree, but the first one, as a delta's base has them."""
    _, deleted, _, revisions = value

    def change(revision):
        id, value, children = revision
        return (id, [] if children else bare_value(value), [change(child) for child in children])

    return [deleted, encode([]), encode([(position, change(r)) for position, r in decode(revisions)])]


class Known:
    """The values of five elements that the id tree has of a document."""

    def __init__(self, revisions):
        self.found, self.places, self.last = {}, 0, -1  # places and values by ids; places; the one that was found last
        for _, revision in revisions:
            self.add(revision)

    def add(self, revision):
        id, value, children = revision
        if has_five(value):
            self.found.setdefault(encode(id), []).append((self.places, value))
            self.places += 1
        for child in children:
            self.add(child)

    def find(self, id):
        """The value of the next revision of an id, or None."""
        found = self.found.get(encode(id))
        if not found:
            return None
        self.last, value = next((f for f in found if f[0] > self.last), found[0])
        return value


class Commit:
    """What a server changed between two headers."""

    def __init__(self, server, header):
        self.server, self.body, self.pending = server, server.body, server.pending
        self.header = header  # its elements; in the end, those of the expected one
        self.id_tree, self.local_tree = server.tree(header, ID_TREE), server.tree(header, LOCAL_TREE)
        self.update_seq = decode(header[2])
        self.documents = [self.document() for _ in range(self.body.number())]
        self.purges = [self.purge() for _ in range(self.body.number())]
        self.local = [self.local_document() for _ in range(self.body.number())]

    def document(self):
        """The update_seq of a document, and the elements of its value in the seq tree."""
        b = self.body
        self.update_seq += b.number() + 1
        form = b.number()
        check(form < 2, "the body has a document of the unknown form %d" % form)
        if form == 1:
            return self.update_seq, elements(b.string())
        id = b.string()
        value = self.value_of(id)
        plain = elements(b.delta(b"h\x04" + id if value is None else encode_tuple([id] + bare(value))))
        return self.update_seq, self.complete(plain, value) if len(plain) == 4 else plain

    def value_of(self, id):
        """The elements of a document's value in the id tree, or None, also if they are not four."""
        entry = self.id_tree.find(decode(id))
        value = [] if entry is None else elements(elements(entry.term)[1])
        return value if len(value) == 4 else None

    def complete(self, plain, value):
        """The value that a plain one becomes; value is that in the id tree."""
        id, deleted, sizes, revisions = plain
        known, leaves = Known([] if value is None else decode(value[3])), []
        revisions = [(position, self.revision(r, known, leaves)) for position, r in decode(revisions)]
        if decode(sizes) == [] and all(is_leaf(leaf) for leaf in leaves):
            attached = []
            for leaf in leaves:
                attached += [a for a in leaf[4] if a not in attached]
            n = sum(a[1] for a in attached)
            sizes = encode((sum(leaf[3][0] for leaf in leaves) + n, sum(leaf[3][1] for leaf in leaves) + n))
        return [id, deleted, sizes, encode(revisions)]

    def revision(self, revision, known, leaves):
        """The revision that a plain one becomes, and the same for those below it."""
        id, value, children = revision
        if isinstance(value, tuple) and len(value) == 2 and self.pending:
            deleted, external = value
            offset, size, attached = self.pending.pop(0)
            value = (deleted, offset, self.update_seq, (size, external), attached)
        elif value == [] or is_leaf(value) and value[1] == 0:
            older = known.find(id)
            if older is not None and value != []:
                older = older[:2] + (value[2],) + older[3:]
            if older is not None and (value == [] or value == bare_value(older)):
                value = older
        elif is_leaf(value) and self.pending and value[1] == self.pending[0][0]:
            self.pending.pop(0)
        if not children:
            leaves.append(value)
        return (id, value, [self.revision(c, known, leaves) for c in children])

    def purge(self):
        key, value, removes = self.body.string(), self.body.string(), self.body.number()
        check(removes < 2, "the body has the unknown flag %d for a purge" % removes)
        return key, elements(value), removes

    def local_document(self):
        key = self.body.string()
        entry = self.local_tree.find(decode(key))
        return key, self.body.delta(b"" if entry is None else elements(entry.term)[1])

    def modify(self):
        ids = [(value[0], encode_tuple([encode(seq)] + value[1:])) for seq, value in self.documents]
        seqs = [(encode(seq), encode_tuple(value)) for seq, value in self.documents]
        removed = [decode(value[1]) for _, value, removes in self.purges if removes]
        found = [self.id_tree.find(id) for id in removed + [decode(id) for id, _ in ids]]
        older = [decode(elements(e.term)[1])[0] for e in found if e is not None]
        self.change(ID_TREE, ids, removed)
        self.change(SEQ_TREE, seqs, older)
        gone = [decode(key) for key, value in self.local if not value]
        self.change(LOCAL_TREE, [(key, value) for key, value in self.local if value], gone)
        self.change(PURGE_TREE, [(value[0], encode_tuple([key] + value[1:])) for key, value, _ in self.purges])
        self.change(PURGE_SEQ_TREE, [(key, encode_tuple(value)) for key, value, _ in self.purges])
        purged_alone = self.purges and not self.documents
        self.header[2] = encode(self.update_seq + 1 if purged_alone else self.update_seq)

    def change(self, at, values, removed=()):
        """Modifies a tree. Values are pairs, with the keys, encoded."""
        if values or removed:
            tree = self.server.tree(self.header, at)
            tree.modify([tree.entry(*v) for v in values], removed)
            self.header[at] = encode(tree.state())


class ReadTree(Tree):
    """A tree whose nodes are read from the file, those of earlier commits and of other programs."""

    def __init__(self, server, state, compression, reduce, reduction):
        super().__init__(server, compression, server.chunk_size, reduce)
        self.nodes, self.read, self.reduction = server.nodes, server.file.chunk, reduction
        if state != NIL:
            offset, reduced, size = state
            key = self.node(offset)[1][-1].key
            self.root = Entry(key, encode((key, state)), reduced, offset, size)

    def node(self, offset):
        if offset not in self.nodes:
            self.nodes[offset] = self.read_node(offset)
        return self.nodes[offset]

    def read_node(self, offset):
        kind, items = elements(decompress(self.read(offset)))
        if decode(kind) == "kv_node":
            return b"kv_node", [self.entry(*elements(e)) for e in elements(items)]
        entries = [self.pointer(e) for e in elements(items)]
        check(all(e.offset < offset for e in entries), "the file is damaged: a node at %d points behind itself" % offset)
        return b"kp_node", entries

    def entry(self, key, value):
        return Entry(decode(key), encode_tuple([key, value]), self.reduction(value))

    def pointer(self, term):
        key, (offset, reduced, size) = decode(term)
        return Entry(key, term, reduced, offset, size)


# -------------------------------------------------------------- view indexes


class Rows:
    """The rows of a tree of the older index, as encoded pairs."""

    def __init__(self, file, state):
        self.file, self.rows = file, iter(()) if state == NIL else self.below(state[0])

    def below(self, offset):
        kind, entries = elements(decompress(self.file.chunk(offset)))
        for entry in elements(entries):
            key, value = elements(entry)
            if decode(kind) == "kp_node":
                child = decode(value)[0]
                check(child < offset, "the older index is damaged: a node at %d points behind itself" % offset)
                yield from self.below(child)
            else:
                yield key, value

    def next(self):
        row = next(self.rows, None)
        check(row is not None, "the older index has fewer rows than the stream needs")
        return row


def older_trees(file, prologue):
    """The states of the older index's trees."""
    header = decode(file.newest_header()[0][1:])
    check(isinstance(header, tuple) and len(header) == 2 and header[1] != NIL, "the older file is no view index")
    state = header[1]
    check(state[1] == prologue.older_update_seq, "the older index has update_seq %s at its header, and the stream is"
          " for %d" % (state[1], prologue.older_update_seq))
    return [state[3]] + [NIL if view == NIL else view[0] for view in state[-1]]


class Index:
    """Makes a compacted view index."""

    def __init__(self, prologue, body, older):
        self.prologue, self.body = prologue, body
        self.file = File(prologue.checksum)
        self.older = None if older is None else File(prologue.checksum, older)
        self.trees = [] if older is None else older_trees(self.older, prologue)

    def run(self):
        self.header()
        number, last = self.body.number(), 0
        while number:
            check(number > last, "the body has trees in another order")
            self.tree(number - 1)
            number, last = self.body.number(), number
        for _ in range(self.body.number()):
            self.header()
        self.body.end()
        return self.file.data

    def header(self):
        term = self.body.string()
        check(term[:1] == b"\x83", "the body has a header of an unknown form")
        self.file.header(Raw(term[1:]))

    def tree(self, number):
        older = Rows(self.older, self.trees[number] if number < len(self.trees) else NIL)
        tree, ended = RowTree(self, number), False
        while not ended:
            rows, ended = self.rows(older)
            if number:
                tree.functions = [self.body.number() for _ in range(self.body.number())]
            tree.append(rows)

    def rows(self, older):
        """The rows of a batch, and whether its tree ends."""
        rows = []
        while True:
            n, kind = divmod(self.body.number(), 4)
            if kind == 0:
                check(n <= 1 and rows, "the body has a batch of an unknown form")
                return rows, n == 1
            for _ in range(n):
                row = (self.body.term(), self.body.term()) if kind == 3 else older.next()
                if kind != 2:
                    rows.append(row)


class RowTree(Tree):
    """A tree of an index. Rows have their places, whatever their keys are."""

    def __init__(self, index, number):
        super().__init__(index.file, index.prologue.compression, index.prologue.chunk_size, None)
        self.body, self.has_values, self.functions = index.body, number > 0, []

    def append(self, rows):
        pointers = self.modify_node(self.root, [leaf_entry(key, value, None) for key, value in rows])
        while len(pointers) > 1:
            pointers = self.write(b"kp_node", pointers)
        self.root = pointers[0]

    def modify_leaf(self, old, actions):
        return old + actions

    def modify_inner(self, old, actions):
        return old[:-1] + self.modify_node(old[-1], actions)

    def reduction_of(self, kind, entries):
        if not self.has_values:
            return []
        if kind == b"kv_node":
            return self.leaf(entries)
        parts = [e.reduction for e in entries]
        values = []
        for i, f in enumerate(self.functions):
            column = [p[1][i] for p in parts]
            values.append(self.value(f, add_values, column[::-1] if i % 2 == 0 else column))
        return sum(p[0] for p in parts), values, sum(p[2] for p in parts)

    def leaf(self, entries):
        rows, size = [], 0
        for e in entries:
            key = elements(elements(e.term)[0])[0]
            for value in row_values(elements(e.term)[1]):
                rows.append(value)
                size += 2 + len(key) + len(value)
        values = [self.value(f, len, rows) for f in self.functions]
        return len(rows), values, size + 1 + len(encode(values))

    def value(self, function, count, values):
        """That of one function of a node's values, or the one that is told."""
        check(function <= 3, "the body has a function of the unknown number %d" % function)
        if function == 0:
            told = self.body.term()
            return told[1] if told[0] == 97 else told  # small integers may make a list a STRING
        if function == 2 and count is len:
            return len(values)
        numbers = [decode(v) if isinstance(v, Raw) else v for v in values]
        return stats(numbers) if function == 3 else add_values(numbers)


def row_values(value):
    """The values of the rows that an entry stands for, encoded."""
    if value[0] == 104 and value[1] == 2:
        name, rows = elements(value)
        if name[0] in (100, 115, 118, 119) and decode(name) == "dups":
            return small_terms(rows)[::-1]
    return [value]


def small_terms(rows):
    """The encoded elements of a list, which may be a STRING."""
    return [Raw(encode(n)) for n in decode(rows)] if rows[0] == 107 else elements(rows)


def add_values(values):
    """_sum."""
    total, is_list = [0], False
    for value in values:
        is_list = is_list or isinstance(value, list)
        for i, n in enumerate(value if isinstance(value, list) else [value]):
            if i < len(total):
                total[i] += n
            else:
                total.append(n)
    return total if is_list else total[0]


def stats(values):
    """_stats."""
    made = None
    for n in values:
        new = n if isinstance(n, tuple) else (n, 1, n, n, n * n)
        if made is not None:
            least = made[2] if new[2] > made[2] else new[2]
            largest = made[3] if new[3] < made[3] else new[3]
            new = (new[0] + made[0], new[1] + made[1], least, largest, new[4] + made[4])
        made = new
    return made or (0, 0, 0, 0, 0)


# ------------------------------------------------------------------- the whole


def correct(data, corrections):
    """Puts in what was not predicted."""
    at = 0
    for distance, part in corrections:
        at += distance
        check(part and at + len(part) <= len(data), "a correction is beyond the end of the file")
        data[at : at + len(part)] = part
        at += len(part)


def replay(stream, older):
    """The file that a stream makes; older may be None."""
    if stream[:8] == COPY:
        return copy(stream, older)
    kinds = {TAIL: (tail, TailPrologue), INDEX: (index, IndexPrologue)}
    make, prologue = kinds.get(bytes(stream[:8]), (compaction, Prologue))
    p = prologue(stream)
    body = stream[p.bytes :]
    check(len(body) == p.body_size and sha256(body) == p.body_sum, "the body has another length or SHA-256 than the"
          " prologue says: the stream is damaged")
    return make(p, Reader(body, "body"), older)


def payload(data):
    """A file's bytes without the first one of each block."""
    return b"".join(data[at + 1 : at + BLOCK] for at in range(0, len(data), BLOCK))


def copy(stream, older):
    """The file that consists of the stream's literals and of pieces of the older file."""
    r, start = begin(stream, COPY)
    size, total, older_size, literals = r.number(), r.take(32), r.number(), r.number()
    check(older is not None and len(older) >= older_size, "the older file has fewer bytes than the stream needs")
    check(len(stream) == start + literals, "the stream has another length than its prologue says")
    older, literals = payload(older[:older_size]), Reader(stream[start:], "stream")
    markers, block = {}, -1
    for _ in range(r.number()):
        block += 1 + r.number()
        markers[block] = r.number()
    length, parts, made, at = size - (size + BLOCK - 1) // BLOCK, [], 0, 0
    while made < length:
        parts.append(literals.take(r.number()))
        made += len(parts[-1])
        if made < length:
            n = r.number()
            at += r.signed()
            check(n and 0 <= at <= at + n <= len(older), "the stream copies what the older file does not have")
            parts.append(older[at : at + n])
            at, made = at + n, made + n
    r.end()
    literals.end()
    check(made == length, "the stream makes another number of bytes than it says")
    parts, out = b"".join(parts), bytearray()
    for block in range((size + BLOCK - 1) // BLOCK):
        out.append(markers.get(block, 0))
        out += parts[block * (BLOCK - 1) : (block + 1) * (BLOCK - 1)]
    check(len(out) == size and sha256(bytes(out)) == total, "what was made is not the file that was stored: the older file is another one")
    return bytes(out)


def compaction(p, body, older):
    """The compacted file."""
    check(older is not None or p.older_documents == 0, "the stream needs the older file")
    source = Older(older, p) if p.older_documents else None
    data = Compactor(p, body, source).run()
    correct(data, p.corrections)
    check_made(p, data)
    return data


def index(p, body, older):
    """The compacted view index."""
    check(older is not None or p.taken == 0, "the stream needs the older file")
    data = Index(p, body, older if p.taken else None).run()
    correct(data, p.corrections)
    check_made(p, data)
    return data


def tail(p, body, older):
    """The older file with the tail behind it."""
    check(older is not None, "the stream needs the older file")
    check(len(older) == p.start, "the stream continues a file of %d bytes, and this one has %d" % (p.start, len(older)))
    data = Server(p, body, older).run()
    check_made(p, data[p.start :])
    return data


def check_made(p, data):
    check(len(data) == p.size and sha256(data) == p.sum, "what was made has another length or SHA-256 than the prologue"
          " says: the older file is another, or damaged")


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data):
    with open(path, "xb") as f:
        try:
            f.write(data)
            f.flush()
        except OSError:
            os.remove(path)
            raise


def main(stream, older, out):
    """What is wrong, or None."""
    try:
        write(out, replay(read(stream), None if older == "-" else read(older)))
    except Refused as e:
        return str(e)
    except OSError as e:
        return str(e)
    except MISFITS as e:
        return "what the stream and the older file hold does not fit together, or is damaged (%r)" % e
    return None


def run():
    """Runs main in a thread with a large stack: the history of a document is as deep as it is long."""
    if len(sys.argv) != 4:
        sys.exit("usage: python3 replay.py STREAM OLDER OUT    (OLDER is - if the stream needs none)")
    failed = ["it ended early"]
    sys.setrecursionlimit(400000)
    threading.stack_size(512 << 20)
    thread = threading.Thread(target=lambda: failed.append(main(*sys.argv[1:])))
    thread.start()
    thread.join()
    if failed[-1] is not None:
        sys.exit("replay.py: " + failed[-1])


if __name__ == "__main__":
    run()
