"""The scripted model's story, and the words that change it."""

from __future__ import annotations

import pytest

from hutch.demo import model_anthropic, model_openai
from hutch.demo.model_script import Conversation, Manner, Run, Text, Write, parts

TOOLS: dict[str, dict[str, object]] = {"Bash": {}, "Write": {}}


def talk(turn: int, *outputs: str, prompt: str = "Do it") -> Conversation:
    return Conversation("m", prompt, turn, list(outputs), TOOLS)


def test_story_looks_writes_a_report_where_it_stands_and_ends_in_words() -> None:
    plain = Manner()
    assert [part.command for part in parts(talk(0), plain) if isinstance(part, Run)] == ["pwd && ls -la"]
    seen = ("/home/user/repo\ntotal 4\n-rw-r--r-- a.txt", "Linux 6.1")
    (written,) = [part for part in parts(talk(2, *seen), plain) if isinstance(part, Write)]
    assert written.path == "/home/user/repo/report.md"
    assert "Do it" in written.content and "a.txt" in written.content and "Linux 6.1" in written.content
    assert all(isinstance(part, Text) for part in parts(talk(4, *seen), plain))
    assert parts(talk(9, *seen), plain) == parts(talk(4, *seen), plain)


def test_bracketed_words_choose_commands_and_last_words() -> None:
    manner = Manner.of("Please [model run=echo a] then [model run=echo b] [model say=bye] [model tokens=5] [model cut]")
    assert (manner.runs, manner.say, manner.tokens, manner.cut) == (("echo a", "echo b"), "bye", 5, True)
    assert [parts(talk(turn), manner)[0] for turn in (0, 1)] == [Run("echo a", "Step 1"), Run("echo b", "Step 2")]
    assert parts(talk(2), manner) == [Text("bye")]


def test_word_with_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="abc"):
        Manner.of("[model tokens=abc]")


def test_conversation_is_read_the_same_in_both_wires() -> None:
    said = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "<system-reminder>x"}, {"type": "text", "text": "Do it"}],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "out"}]},
    ]
    anthropic = model_anthropic.read({"model": "m", "messages": said, "tools": [{"name": "Bash"}]}, 0)
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Do it"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "name": "Bash", "arguments": "{}", "call_id": "c"},
        {"type": "function_call_output", "call_id": "c", "output": "Chunk ID: 1\nOutput:\nout"},
    ]
    openai = model_openai.read({"model": "m", "input": items, "tools": [{"name": "Bash"}]}, 0)
    for read in (anthropic, openai):
        assert (read.prompt, read.turn, read.outputs, list(read.tools)) == ("Do it", 1, ["out"], ["Bash"])


def test_agent_without_tools_gets_a_short_text() -> None:
    assert parts(Conversation("m", "Title?", 0), Manner()) == [Text("Scripted task")]
