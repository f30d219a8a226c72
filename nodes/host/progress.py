"""The host's record of how far the nodes of a run are."""

from __future__ import annotations

from comfy_execution.progress import NodeState, get_progress_state


def forget_finished(node_id: str) -> None:
    """Let the host forget the finished nodes that came out of the same expansion as this one.

    With every step of a sampler the host sends the state of all nodes of the run. For a run of
    some hundred segments that is more and more work, for the server and for the browser.
    """
    record = get_progress_state()
    parent = record.dynprompt.get_parent_node_id(node_id)
    for name, state in list(record.nodes.items()):
        finished = state["state"] is NodeState.Finished
        if finished and record.dynprompt.get_parent_node_id(name) == parent:
            del record.nodes[name]
