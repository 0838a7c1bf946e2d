"""Ways to choose a server, by the names of other programs."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.topology.importers.draft import Draft, Fields

__all__ = ["router_policy"]

# Types of TensorRT-LLM's routers (docs of trtllm-serve disaggregated; the longer names are those before 1.0).
_POLICIES = {
    "round_robin": "round_robin",
    "load_balancing": "least_loaded",
    "requests_load_balancing": "least_loaded",
    "tokens_load_balancing": "least_loaded",
}
_KNOWN = {
    "track_routed_blocks": "router.policy: kv_prefix always counts what each server has read",
    "use_tokens": "loads are counted by requests and tokens",
}


def router_policy(routers: Sequence[tuple[Fields, str]], draft: Draft) -> str:
    """The policy of the deployment: that of its servers when they agree, round robin otherwise."""
    chosen: list[str] = []
    for fields, _ in routers:
        kind = fields.text("type")
        policy = _POLICIES.get(kind or "round_robin")
        if policy is None:
            near = "round_robin" if kind == "conversation" else "least_loaded"
            draft.lose(fields.named("type"), fields.at("type"), f"there is no policy {kind}", f"{near} is the nearest")
        if kind is not None:
            chosen.append(policy or "round_robin")
        draft.lose_known(fields, _KNOWN)
        draft.lose_rest(fields, {})
    if len(set(chosen)) > 1:
        fields, side = routers[0]
        draft.lose(
            fields.named("type"),
            fields.at("type"),
            f"one policy holds for the deployment, and {side} and {routers[1][1]} have different ones",
            "round_robin is used; set router.policy",
        )
        return "round_robin"
    return chosen[0] if chosen else "round_robin"
