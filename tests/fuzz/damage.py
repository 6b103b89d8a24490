"""Ways to damage a file: its bytes, or what it says. Each takes what there is and a generator of random numbers."""

import json

import numpy as np

DEEP = 2_000  # levels of nesting


def some_bits(content, random):
    found = bytearray(content)
    for _ in range(random.integers(1, 9)):
        found[random.integers(len(found))] ^= 1 << int(random.integers(8))
    return bytes(found)


def some_bytes(content, random):
    at, size = place(content, random), int(random.integers(1, 17))
    return content[:at] + random.bytes(size) + content[at + size :]


def largest(content, random):
    at = place(content, random)
    return (
        content[:at] + [b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\0" * 7 + b"\x80"][random.integers(3)] + content[at + 8 :]
    )


def cut_off(content, random):
    return content[: place(content, random)]


def cut_out(content, random):
    at = place(content, random)
    return content[:at] + content[at + int(random.integers(1, 65)) :]


def swapped(content, random):
    a, b = sorted((place(content, random), place(content, random)))
    size = min(int(random.integers(1, 65)), b - a)
    return content[:a] + content[b : b + size] + content[a + size : b] + content[a : a + size] + content[b + size :]


def doubled(content, random):
    at, size = place(content, random), int(random.integers(1, 65))
    return content[: at + size] + content[at : at + size] + content[at + size :]


def nul(content, random):
    at = place(content, random)
    return content[:at] + b"\0" * int(random.integers(1, 9)) + content[at:]


def nested(content, random):
    at, kind = place(content, random), [b"[", b"{", b"]", b'{"a":', b"{a=", b"("][random.integers(6)]
    return content[:at] + kind * DEEP + content[at:]


def digits(content, random):
    at = place(content, random)
    return content[:at] + b"9" * 5_000 + content[at:]


def encoded(content, random):
    text = content.decode("latin-1")
    return text.encode(["utf-16", "utf-32", "utf-8-sig", "utf-7", "cp500"][random.integers(5)], errors="replace")


def line_twice(content, random):
    lines = content.splitlines(keepends=True)
    at = int(random.integers(len(lines))) if lines else 0
    return b"".join([*lines[:at], *lines[at : at + 1], *lines[at:]])


def emptied(content, random):
    return b""


BYTES = (some_bits, some_bits, some_bytes, largest, cut_off, cut_out, swapped, doubled, nul, emptied)
TEXT = (*BYTES, nested, digits, encoded, line_twice)


def place(content, random):
    return int(random.integers(len(content) + 1))


def deep(kind):
    found = 1
    for _ in range(900):  # what json.dumps can write out
        found = [found] if kind == "list" else {"a": found}
    return found


# What stands in place of a value. The words are markup, an escape sequence, half a character, a path, a glob, a URL.
ODD = (
    *(None, True, False, 0, 1, -1, 2, 0.0, -0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), float("-inf")),
    *(2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400, [], {}, [[]], [None], [1, "a"], {"a": 1}),
    *("", "word", "[/x]", "\x1b[2J", "\0", "\ud800", "../..", "*", "gone://x?a=b", "9" * 5_000, "nan", "1", "a" * 300),
)


def other(value, random):
    """Return what a tree says, with one of its values replaced, removed or renamed."""
    spots = []

    def walk(tree, path):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            spots.append((*path, key))
            if isinstance(tree[key], dict | list):
                walk(tree[key], (*path, key))

    found = json.loads(json.dumps(value))
    walk(found, ())
    for _ in range(random.integers(1, 3)):
        *path, key = spots[random.integers(len(spots))]
        tree = found
        try:
            for step in path:
                tree = tree[step]
            changed(tree, key, random)
        except (KeyError, IndexError, TypeError):  # a change before this one has removed it
            pass
    return found


def changed(tree, key, random):
    how = random.integers(8)
    if how == 0:
        del tree[key]
    elif how == 1 and isinstance(tree, dict):
        tree[f"{key}x"] = tree.pop(key)
    elif how == 2:
        tree[key] = [tree[key]]
    elif how == 3:
        tree[key] = deep(["list", "table"][random.integers(2)])
    elif how == 4 and isinstance(tree, list):
        tree.append(tree[key])
    else:
        tree[key] = ODD[random.integers(len(ODD))]


def other_array(array, random):
    """Return an array of another shape, of another kind, or with other numbers."""
    numbers = np.array(array)
    how = random.integers(6)
    if how == 0:
        with np.errstate(invalid="ignore"):
            return numbers.astype([np.int64, np.float32, np.bool_, np.float16, np.uint8][random.integers(5)])
    if how == 1:
        return numbers.reshape([(1, *numbers.shape), (*numbers.shape, 1), (-1,)][random.integers(3)])
    if how == 2:
        return numbers[: numbers.shape[0] // 2] if numbers.ndim else numbers
    if how == 3:
        return np.concatenate([numbers, numbers]) if numbers.ndim else numbers
    if numbers.size:
        numbers.flat[random.integers(numbers.size)] = [np.nan, np.inf, -np.inf, 1e308, -1.0, 0.0][random.integers(6)]
    return numbers
