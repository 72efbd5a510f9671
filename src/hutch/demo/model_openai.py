"""The scripted model in OpenAI's words: Responses and Chat Completions, streamed and not."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import time
from collections.abc import Iterator
from typing import Any

from hutch.demo.model_anthropic import pieces
from hutch.demo.model_script import Conversation, Manner, Part, Plan, Run, Text, Thinking, Write

Event = dict[str, Any]

_SAID = ("reasoning", "function_call", "custom_tool_call")
_HEAD = re.compile(r"\A.*?^Output:\n", re.DOTALL | re.MULTILINE)
"""What Codex puts before a command's output."""
_FRAME = ("<environment_context>", "<user_instructions>", "<permissions", "# AGENTS.md", "<system-reminder>", "<skills")


def read(body: dict[str, Any], size: int) -> Conversation:
    """The conversation of a Responses or a Chat Completions request."""
    items = body.get("input", body.get("messages", []))
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    prompt, turn, outputs, speaking = "", 0, [], False
    for item in items:
        kind = item.get("type", "message")
        ours = kind in _SAID or item.get("role") == "assistant"
        turn += ours and not speaking
        speaking = ours
        if item.get("role") == "user":
            prompt = next((text for text in _texts(item["content"]) if not text.startswith(_FRAME)), prompt)
        elif kind.endswith("call_output") or item.get("role") == "tool":
            outputs.append(_HEAD.sub("", "\n".join(_texts(item.get("output", item.get("content", ""))))))
    return Conversation(str(body.get("model", "")), prompt, turn, outputs, _tools(body), size)


def items(parts: list[Part], talk: Conversation) -> list[dict[str, Any]]:
    """The output items of an answer, complete, in the words of Responses."""
    return [item for part in parts if (item := _item(part, talk)) is not None]


def usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Half of a long conversation is said to come from the cache, as with the real one."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": input_tokens // 2 if input_tokens > 4000 else 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def response(output: list[dict[str, Any]], talk: Conversation, used: dict[str, Any] | None) -> dict[str, Any]:
    """The answer to a Responses request; without `used` it is only begun."""
    return {
        "id": _id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed" if used else "in_progress",
        "model": talk.model,
        "output": output,
        "usage": used,
    }


def stream(output: list[dict[str, Any]], talk: Conversation, used: dict[str, Any], manner: Manner) -> Iterator[Event]:
    """The answer to a Responses request as server-sent events."""
    whole = response(output, talk, used)
    yield {"type": "response.created", "response": whole | {"status": "in_progress", "output": [], "usage": None}}
    for index, item in enumerate(output):
        where = {"output_index": index, "item_id": item["id"]}
        yield {"type": "response.output_item.added", "output_index": index, "item": _begun(item)}
        if item["type"] == "message":
            yield from _message_events(item, where, manner.chunks)
        elif item["type"] == "reasoning":
            for piece in pieces(item["summary"][0]["text"], 2):
                yield {"type": "response.reasoning_summary_text.delta", "summary_index": 0, "delta": piece} | where
        elif item["type"] == "function_call":
            for piece in pieces(item["arguments"], 3):
                yield {"type": "response.function_call_arguments.delta", "delta": piece} | where
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": "response.completed", "response": whole}


def chat(output: list[dict[str, Any]], talk: Conversation, used: dict[str, Any]) -> dict[str, Any]:
    """The answer to a Chat Completions request."""
    reply = _chat_message(output)
    choice = {"index": 0, "message": reply, "finish_reason": "tool_calls" if "tool_calls" in reply else "stop"}
    return _chat_head("chat.completion", talk) | {"choices": [choice], "usage": _chat_usage(used)}


def chat_stream(
    output: list[dict[str, Any]], talk: Conversation, used: dict[str, Any], manner: Manner, with_usage: bool
) -> Iterator[Event]:
    """The answer to a Chat Completions request as server-sent events (without the closing `[DONE]`)."""
    head = _chat_head("chat.completion.chunk", talk)
    reply = _chat_message(output)
    calls = [call | {"index": index} for index, call in enumerate(reply.get("tool_calls", []))]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces(reply["content"] or "", manner.chunks)]
    deltas += [{"tool_calls": [call]} for call in calls]
    for delta in deltas:
        yield head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}]}
    if with_usage:
        yield head | {"choices": [], "usage": _chat_usage(used)}


def encode(event: Event) -> bytes:
    """One event on the wire. Chat Completions events have no `type` and so no `event:` line."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def error(kind: str, text: str) -> dict[str, Any]:
    """An error body."""
    return {"error": {"message": text, "type": kind, "param": None, "code": kind}}


def _item(part: Part, talk: Conversation) -> dict[str, Any] | None:
    match part:
        case Text(text):
            content = [{"type": "output_text", "text": text, "annotations": []}]
            return {
                "type": "message",
                "id": _id("msg_"),
                "role": "assistant",
                "status": "completed",
                "content": content,
            }
        case Thinking(text):
            summary = [{"type": "summary_text", "text": text}]
            return {"type": "reasoning", "id": _id("rs_"), "summary": summary, "encrypted_content": None}
        case Run(command, _):
            return _command(command, talk)
        case Write(path, content) if "exec" in talk.tools:
            lines = "".join(f"+{line}\n" for line in content.splitlines())
            patch = f"*** Begin Patch\n*** Add File: {path}\n{lines}*** End Patch"
            return _script(f"text(await tools.apply_patch({json.dumps(patch)}));")
        case Write(path, content):
            return _command(f"cat > {shlex.quote(path)} <<'END_OF_FILE'\n{content}END_OF_FILE", talk)
        case Plan(steps, done) if "update_plan" in talk.tools:
            plan = [{"step": step, "status": _status(index, done)} for index, step in enumerate(steps)]
            return _call("update_plan", {"plan": plan})
        case Plan():
            return None


def _command(command: str, talk: Conversation) -> dict[str, Any]:
    """A call of whichever shell tool the client offers; they differ in name and argument."""
    if "exec" in talk.tools:  # Codex with newer models: one tool that takes JavaScript, which calls the others
        return _script(f"const r = await tools.exec_command({json.dumps({'cmd': command})}); text(r.output);")
    if "exec_command" in talk.tools:
        return _call("exec_command", {"cmd": command})
    if "shell_command" in talk.tools:
        return _call("shell_command", {"command": command})
    if "shell" in talk.tools:
        return _call("shell", {"command": ["bash", "-lc", command]})
    return _call(next(iter(talk.tools)), {"command": command})


def _script(source: str) -> dict[str, Any]:
    return _made("custom_tool_call", "ctc_", {"name": "exec", "input": source})


def _call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return _made("function_call", "fc_", {"name": name, "arguments": json.dumps(arguments)})


def _made(kind: str, prefix: str, call: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "id": _id(prefix), "call_id": _id("call_"), "status": "completed"} | call


def _status(index: int, done: int) -> str:
    return "completed" if index < done else "in_progress" if index == done else "pending"


def _message_events(item: dict[str, Any], where: dict[str, Any], chunks: int) -> Iterator[Event]:
    at = where | {"content_index": 0}
    part = item["content"][0]
    yield {"type": "response.content_part.added", "part": part | {"text": ""}} | at
    for piece in pieces(part["text"], chunks):
        yield {"type": "response.output_text.delta", "delta": piece} | at
    yield {"type": "response.output_text.done", "text": part["text"]} | at
    yield {"type": "response.content_part.done", "part": part} | at


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    blank: dict[str, Any] = {"content": [], "summary": [], "arguments": "", "status": "in_progress"}
    return {key: blank.get(key, value) for key, value in item.items()}


def _chat_message(output: list[dict[str, Any]]) -> dict[str, Any]:
    text = "\n".join(item["content"][0]["text"] for item in output if item["type"] == "message")
    calls = [
        {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
        for item in output
        if item["type"] == "function_call"
    ]
    return {"role": "assistant", "content": text or None} | ({"tool_calls": calls} if calls else {})


def _chat_head(kind: str, talk: Conversation) -> dict[str, Any]:
    return {"id": _id("chatcmpl-"), "object": kind, "created": int(time.time()), "model": talk.model}


def _chat_usage(used: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt_tokens": used["input_tokens"],
        "completion_tokens": used["output_tokens"],
        "total_tokens": used["total_tokens"],
        "prompt_tokens_details": used["input_tokens_details"],
    }


def _tools(body: dict[str, Any]) -> dict[str, dict[str, object]]:
    offered = list(body.get("tools") or [])
    for item in body.get("input", []):
        if isinstance(item, dict) and item.get("type") == "additional_tools":
            offered += [tool for group in item["tools"] for tool in group.get("tools", [group])]
    return {name: tool for tool in offered if (name := tool.get("name") or tool.get("function", {}).get("name"))}


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or [] if isinstance(part, dict) and "text" in part]


def _id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)
