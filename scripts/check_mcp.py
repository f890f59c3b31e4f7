"""Uses the MCP server as a client of the Python SDK does, over HTTP and over standard input and output."""

import asyncio
import json
import os

from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

TOOLS = {"list_accounts", "search_conversations", "get_conversation", "count_conversations", "completeness"}


async def ask(session, tool, **arguments):
    result = await session.call_tool(tool, arguments)
    text = result.content[0].text
    assert not result.is_error, f"{tool}: {text}"
    return json.loads(text)


async def use(streams):
    async with ClientSession(streams[0], streams[1]) as session:
        initialized = await session.initialize()
        assert "untrusted_" in initialized.instructions
        tools = (await session.list_tools()).tools
        assert {tool.name for tool in tools} == TOOLS, tools
        assert all(tool.annotations.read_only_hint for tool in tools)
        accounts = await ask(session, "list_accounts")
        assert accounts["total"] == 2, accounts
        counted = await ask(session, "count_conversations", by="account")
        assert counted["total"] > 0, counted
        found = await ask(session, "search_conversations", query="refund OR the OR your", limit=5, sort="newest")
        assert found["hits"] and found["total"] >= len(found["hits"]), found
        more = await ask(session, "search_conversations", query="refund OR the OR your", sort="newest", limit=5, cursor=found["next"])
        seen = {(hit["segment_id"], hit["found_in"]) for hit in found["hits"]}
        assert not seen & {(hit["segment_id"], hit["found_in"]) for hit in more["hits"]}
        read = await ask(session, "get_conversation", segment_id=found["hits"][0]["segment_id"], max_tokens=500)
        assert len(json.dumps(read)) < 500 * 8, "the budget is not kept"
        position, phrases = 0, []
        while True:
            part = await ask(session, "get_conversation", segment_id=found["hits"][0]["segment_id"], first_phrase=position, max_tokens=700)
            phrases += part["phrases"]
            if "next_phrase" not in part:
                break
            position = part["next_phrase"]
        assert len(phrases) == part["phrases_total"]
        await ask(session, "completeness")
        wrong = await session.call_tool("search_conversations", {"query": "("})
        assert wrong.is_error and "hint" in wrong.content[0].text
    return counted["total"]


async def main():
    client = create_mcp_http_client(headers={"Authorization": "Bearer " + os.environ["KEY"]})
    async with client, streamable_http_client(os.environ["BASE"] + "/mcp", http_client=client) as streams:
        over_http = await use(streams)
    command = StdioServerParameters(command=os.environ["PROGRAM"], args=["--config", os.environ["CONFIG"], "mcp"])
    async with stdio_client(command) as streams:
        over_stdio = await use(streams)
    assert over_http == over_stdio
    print(f"ok: {over_http} conversations over both transports")


asyncio.run(main())
