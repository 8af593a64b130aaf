"""What a call has called, and these in turn."""

from collections import deque
from dataclasses import dataclass, field

from control_plane._http.client import Client
from control_plane.models import ChildInvocation

CALLS_PER_PAGE = 50


@dataclass
class Node:
    """A call in the tree."""

    call: ChildInvocation
    children: list["Node"] = field(default_factory=list)
    """Newest first."""
    has_more: bool = False
    """Whether it has made calls that are not in the tree."""

    def as_json(self) -> dict[str, object]:
        """Give what the server says about it, and `children`."""
        return {**self.call.raw, "children": [each.as_json() for each in self.children]}


@dataclass
class Tree:
    """The calls below one, as far as was looked."""

    nodes: list[Node] = field(default_factory=list)
    is_cut: str = ""
    """What is not there; empty if all is."""

    def as_json(self) -> dict[str, object]:
        """Give `children`, and whether they are all."""
        return {
            "children": [each.as_json() for each in self.nodes],
            "children_cut": bool(self.is_cut),
        }


def read_tree(client: Client, invocation_id: str, *, depth: int, most: int) -> Tree:
    """Ask for the calls below one, a generation at a time: what is left out is at the bottom.

    Args:
        client: the server.
        invocation_id: the one at the root.
        depth: generations.
        most: calls; so many requests are made, and one more for the root.
    """
    tree = Tree()
    if depth == 0 or most == 0:
        return tree
    left, is_full, is_deeper = most, False, False
    waiting: deque[tuple[str, list[Node], Node | None, int]] = deque(
        [(invocation_id, tree.nodes, None, 1)]
    )
    while waiting:
        parent_id, children, node, level = waiting.popleft()
        offset: str | None = None
        while True:
            # Below the last generation, and with nothing left, only whether there are any.
            size = min(left, CALLS_PER_PAGE) if level <= depth else 0
            page = client.list_children(parent_id, offset=offset, max_results=size)
            for call in page.invocations:
                child = Node(call)
                children.append(child)
                waiting.append((call.invocation_id, child.children, child, level + 1))
            left -= len(page.invocations)
            offset = page.next_offset
            if offset is None:
                break
            if size == 0 or left == 0:
                is_full, is_deeper = is_full or level <= depth, is_deeper or level > depth
                if node is not None:
                    node.has_more = True
                break
    reasons = []
    if is_full:
        reasons.append(f"--children {most * 10} shows more")
    if is_deeper:
        reasons.append(f"--depth {depth + 2} looks deeper")
    tree.is_cut = ", ".join(reasons)
    return tree
