"""The scripted model in Anthropic's words: Messages, streamed and not."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

from hutch.demo.model_script import Conversation, Manner, Part, Plan, Run, Text, Thinking, Write

Event = dict[str, Any]


def read(body: dict[str, Any], size: int) -> Conversation:
    """The conversation of a Messages request."""
    prompt, turn, outputs = "", 0, []
    for message in body.get("messages", []):
        if message["role"] == "assistant":
            turn += 1
            continue
        blocks = message["content"] if isinstance(message["content"], list) else [_text(message["content"])]
        for block in blocks:
            if block["type"] == "text" and not block["text"].lstrip().startswith("<system-reminder>"):
                prompt = prompt or block["text"]
            elif block["type"] == "tool_result":
                outputs.append(_flat(block.get("content", "")))
    tools = {tool["name"]: tool.get("input_schema", {}) for tool in body.get("tools", [])}
    return Conversation(str(body.get("model", "")), prompt, turn, outputs, tools, size)


def blocks(parts: list[Part], talk: Conversation) -> list[dict[str, Any]]:
    """The content blocks of an answer, complete."""
    return [block for part in parts if (block := _block(part, talk)) is not None]


def message(content: list[dict[str, Any]], talk: Conversation, usage: dict[str, int]) -> dict[str, Any]:
    """The answer to a request that is not streamed."""
    uses_tool = any(block["type"] == "tool_use" for block in content)
    return {
        "id": _id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": talk.model,
        "content": content,
        "stop_reason": "tool_use" if uses_tool else "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }


def stream(content: list[dict[str, Any]], talk: Conversation, usage: dict[str, int], manner: Manner) -> Iterator[Event]:
    """The answer as server-sent events; the last text goes out in `manner.chunks` pieces."""
    whole = message(content, talk, usage)
    yield {
        "type": "message_start",
        "message": whole | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}},
    }
    yield {"type": "ping"}
    for index, block in enumerate(content):
        yield {"type": "content_block_start", "index": index, "content_block": _empty(block)}
        for delta in _deltas(block, manner.chunks):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None},
        "usage": {"output_tokens": usage["output_tokens"]},
    }
    yield {"type": "message_stop"}


def encode(event: Event) -> bytes:
    """One event on the wire."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def usage(input_tokens: int, output_tokens: int) -> dict[str, int]:
    """Half of a long conversation is said to come from the cache, as with the real one."""
    cached = input_tokens // 2 if input_tokens > 4000 else 0
    return {
        "input_tokens": input_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output_tokens,
    }


def error(kind: str, text: str) -> dict[str, Any]:
    """An error body."""
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": _id("req_")}


def _block(part: Part, talk: Conversation) -> dict[str, Any] | None:
    match part:
        case Text(text):
            return _text(text)
        case Thinking(text):
            return {"type": "thinking", "thinking": text, "signature": "c2NyaXB0ZWQ="}
        case Run(command, purpose):
            return _tool("Bash", {"command": command, "description": purpose})
        case Write(path, content) if "Write" in talk.tools:
            return _tool("Write", {"file_path": path, "content": content})
        case Write(path, content):
            return _tool("Bash", {"command": f"cat > {path} <<'END_OF_FILE'\n{content}END_OF_FILE"})
        case Plan(steps, done) if "TodoWrite" in talk.tools:
            return _tool("TodoWrite", {"todos": [_todo(step, index, done) for index, step in enumerate(steps)]})
        case Plan():
            return None


def _todo(step: str, index: int, done: int) -> dict[str, str]:
    status = "completed" if index < done else "in_progress" if index == done else "pending"
    return {"content": step, "status": status, "activeForm": step}


def _tool(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": _id("toolu_"), "name": name, "input": arguments}


def _empty(block: dict[str, Any]) -> dict[str, Any]:
    blank: dict[str, Any] = {"text": "", "thinking": "", "signature": "", "input": {}}
    return {key: blank.get(key, value) for key, value in block.items()}


def _deltas(block: dict[str, Any], chunks: int) -> Iterator[dict[str, Any]]:
    if block["type"] == "text":
        yield from ({"type": "text_delta", "text": piece} for piece in pieces(block["text"], chunks))
    elif block["type"] == "thinking":
        yield from ({"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"], 2))
        yield {"type": "signature_delta", "signature": block["signature"]}
    else:
        arguments = json.dumps(block["input"])
        yield from ({"type": "input_json_delta", "partial_json": piece} for piece in pieces(arguments, 3))


def pieces(text: str, count: int) -> list[str]:
    """`text` in `count` pieces; more than it has characters are made by repeating a dot."""
    if count > len(text):
        return [*text, *("." * (count - len(text)))]
    size = -(-len(text) // count)
    return [text[start : start + size] for start in range(0, len(text), size)]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _flat(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "") for block in content if isinstance(block, dict))


def _id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)
