"""`WS /v1/tasks/{id}/stream`: a task's events, one a message."""

from __future__ import annotations

from contextlib import aclosing

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from hutch.api.deps import ControlDep, OrgDep, check_id
from hutch.api.sockets import first_of, query_int, refuse
from hutch.errors import HutchError, TaskNotFound

router = APIRouter(prefix="/v1/tasks")


@router.websocket("/{task_id}/stream")
async def stream_events(socket: WebSocket, task_id: str, control: ControlDep, org: OrgDep) -> None:
    """Events from `?from=`; closed with 1000 after `result`."""
    try:
        check_id(task_id, "tsk", TaskNotFound, "task")
        events = await control.tasks.follow(task_id, start=query_int(socket, "from", 1, 1, 1 << 62), org=org)
        async with aclosing(events) as source:
            await socket.accept()

            async def send() -> None:
                async for event in source:
                    await socket.send_text(event.model_dump_json())
                await socket.close(1000)

            async def until_gone() -> None:
                while (await socket.receive())["type"] != "websocket.disconnect":
                    pass

            await first_of(socket, send, until_gone)
    except HutchError as error:
        await refuse(socket, error)
    except WebSocketDisconnect:
        pass
