"""Numba kernels of the symbolic analysis: elimination order, fill, positions."""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel


@kernel
def _popcount(word):
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@kernel
def minimum_degree(ptr, neighbors, is_lead, dense_share):
    """Minimum-degree order of the nodes left when the leading factor is eliminated.

    ``ptr, neighbors`` is the co-occurrence graph.  Returns local order (node numbers) with the
    dense remainder, if any, at its end in numerical order.
    """
    n_nodes = ptr.shape[0] - 1
    local = np.full(n_nodes, -1, np.int64)
    n = 0
    for g in range(n_nodes):
        if not is_lead[g]:
            local[g] = n
            n += 1
    nodes = np.empty(n, np.int64)
    for g in range(n_nodes):
        if local[g] >= 0:
            nodes[local[g]] = g
    words = (n + 63) // 64
    one = np.uint64(1)
    adjacency = np.zeros((n, words), np.uint64)
    clique = np.zeros(words, np.uint64)
    for g in range(n_nodes):
        if is_lead[g]:  # eliminating it joins its neighbors to each other
            clique[:] = 0
            for s in range(ptr[g], ptr[g + 1]):
                r = local[neighbors[s]]
                clique[r >> 6] |= one << np.uint64(r & 63)
            for s in range(ptr[g], ptr[g + 1]):
                r = local[neighbors[s]]
                for w in range(words):
                    adjacency[r, w] |= clique[w]
        else:
            r = local[g]
            for s in range(ptr[g], ptr[g + 1]):
                t = local[neighbors[s]]
                if t >= 0:
                    adjacency[r, t >> 6] |= one << np.uint64(t & 63)
    degree = np.zeros(n, np.int64)
    for r in range(n):
        adjacency[r, r >> 6] &= ~(one << np.uint64(r & 63))
        for w in range(words):
            degree[r] += np.int64(_popcount(adjacency[r, w]))
    done = np.zeros(n, np.bool_)
    order = np.empty(n, np.int64)
    count = 0
    while count < n:
        best = -1
        for r in range(n):
            if not done[r] and (best < 0 or degree[r] < degree[best]):
                best = r
        if degree[best] > dense_share * (n - count):
            break
        done[best] = True
        order[count] = nodes[best]
        count += 1
        pattern = adjacency[best]
        for w in range(words):
            word = pattern[w]
            for bit in range(64):
                if (word >> np.uint64(bit)) & one:
                    r = w * 64 + bit
                    total = 0
                    for v in range(words):
                        adjacency[r, v] |= pattern[v]
                    adjacency[r, best >> 6] &= ~(one << np.uint64(best & 63))
                    adjacency[r, r >> 6] &= ~(one << np.uint64(r & 63))
                    for v in range(words):
                        total += np.int64(_popcount(adjacency[r, v]))
                    degree[r] = total
    for r in range(n):
        if not done[r]:
            order[count] = nodes[r]
            count += 1
    return order


@kernel
def fill_patterns(ptr, neighbors, order, n_lead, node_q, dense_share, max_head):
    """Symbolic block Cholesky in a given order.

    Returns the number of nodes eliminated one by one (the head; what follows is treated as
    dense) and the later neighbors of each of them, as positions in the order.
    """
    n_nodes = order.shape[0]
    position = np.empty(n_nodes, np.int64)
    for e in range(n_nodes):
        position[order[e]] = e
    remaining = 0
    for e in range(n_nodes):
        remaining += node_q[order[e]]
    pat_ptr = np.zeros(n_nodes + 1, np.int64)
    pattern = np.empty(max(16, neighbors.shape[0]), np.int64)
    first_child = np.full(n_nodes, -1, np.int64)
    next_sibling = np.full(n_nodes, -1, np.int64)
    seen_by = np.full(n_nodes, -1, np.int64)
    head = 0
    fill = 0
    for e in range(min(n_nodes, max_head)):
        g = order[e]
        remaining -= node_q[g]
        start = fill
        if fill + n_nodes > pattern.shape[0]:
            bigger = np.empty(2 * pattern.shape[0] + n_nodes, np.int64)
            bigger[:fill] = pattern[:fill]
            pattern = bigger
        seen_by[e] = e
        for s in range(ptr[g], ptr[g + 1]):
            r = position[neighbors[s]]
            if r > e and seen_by[r] != e:
                seen_by[r] = e
                pattern[fill] = r
                fill += 1
        child = first_child[e]
        while child >= 0:
            for s in range(pat_ptr[child], pat_ptr[child + 1]):
                r = pattern[s]
                if seen_by[r] != e:
                    seen_by[r] = e
                    pattern[fill] = r
                    fill += 1
            child = next_sibling[child]
        width = 0
        for s in range(start, fill):
            width += node_q[order[pattern[s]]]
        if e >= n_lead and width > dense_share * remaining and width > 0:
            fill = start
            break
        if fill - start > 1:
            pattern[start:fill].sort()
        if fill > start:
            parent = pattern[start]
            next_sibling[e] = first_child[parent]
            first_child[parent] = e
        pat_ptr[e + 1] = fill
        head = e + 1
    return head, pat_ptr[: head + 1].copy(), pattern[:fill].copy()


@kernel
def panel_positions(n_head, pat_ptr, pattern, node_q, node_col):
    """Columns of each head node's panel, and where they sit in the panels of later head nodes.

    Returned arrays are documented at ``Layout``.
    """
    pcol_ptr = np.zeros(n_head + 1, np.int64)
    hpat_ptr = np.zeros(n_head + 1, np.int64)
    for e in range(n_head):
        width = 0
        heads = 0
        for s in range(pat_ptr[e], pat_ptr[e + 1]):
            width += node_q[pattern[s]]
            heads += pattern[s] < n_head
        pcol_ptr[e + 1] = pcol_ptr[e] + width
        hpat_ptr[e + 1] = hpat_ptr[e] + heads
    pcol = np.empty(pcol_ptr[n_head], np.int64)
    hpat_node = np.empty(hpat_ptr[n_head], np.int64)
    hpat_off = np.empty(hpat_ptr[n_head], np.int64)
    rel_ptr = np.zeros(hpat_ptr[n_head] + 1, np.int64)
    tail_off = np.zeros(n_head, np.int64)
    for e in range(n_head):
        c = pcol_ptr[e]
        h = hpat_ptr[e]
        for s in range(pat_ptr[e], pat_ptr[e + 1]):
            r = pattern[s]
            if r < n_head:
                hpat_node[h] = r
                hpat_off[h] = c - pcol_ptr[e]
                rest = pcol_ptr[e + 1] - c - node_q[r]
                rel_ptr[h + 1] = rel_ptr[h] + rest
                h += 1
                tail_off[e] = c - pcol_ptr[e] + node_q[r]
            for a in range(node_q[r]):
                pcol[c] = node_col[r] + a
                c += 1
    rel = np.empty(rel_ptr[hpat_ptr[n_head]], np.int64)
    for e in range(n_head):
        width = pcol_ptr[e + 1] - pcol_ptr[e]
        for h in range(hpat_ptr[e], hpat_ptr[e + 1]):
            r = hpat_node[h]
            i = pcol_ptr[r]
            out = rel_ptr[h]
            # Both lists are sorted and the first is contained in the second: one merge.
            for c in range(hpat_off[h] + node_q[r], width):
                col = pcol[pcol_ptr[e] + c]
                while pcol[i] != col:
                    i += 1
                rel[out] = i - pcol_ptr[r]
                out += 1
    return pcol_ptr, pcol, hpat_ptr, hpat_node, hpat_off, rel_ptr, rel, tail_off


@kernel
def scatter_pairs(rows, columns, values, base_k, base_l, position, layout, panel, tail):
    """Write the blocks of one pair of factors into the panels and the dense tail."""
    n_head = layout.sizes[1]
    head_columns = layout.sizes[2]
    for s in range(rows.shape[0]):
        e = position[base_k + rows[s]]
        r = position[base_l + columns[s]]
        swapped = r < e
        if swapped:
            e, r = r, e
        q = layout.node_q[e]
        col = layout.node_col[r]
        if e < n_head:
            low = layout.pcol_ptr[e]
            high = layout.pcol_ptr[e + 1]
            width = high - low
            c = np.searchsorted(layout.pcol[low:high], col)
            at = layout.panel_ptr[e]
            for a in range(q):
                for b in range(layout.node_q[r]):
                    v = values[s, b, a] if swapped else values[s, a, b]
                    panel[at + a * width + c + b] = v
        else:
            row = layout.node_col[e] - head_columns
            c = col - head_columns
            for a in range(q):
                for b in range(layout.node_q[r]):
                    v = values[s, b, a] if swapped else values[s, a, b]
                    tail[c + b, row + a] = v
                    tail[row + a, c + b] = v
