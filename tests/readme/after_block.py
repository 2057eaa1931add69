
# What stands behind each Python block: whatever it defines is used.
import asyncio as _asyncio

if "serve" in globals():
    _asyncio.run(serve())
elif "docker" in globals():
    with modelpool.Pool("default").lease("tiny", load=load) as lease:
        assert lease.address.startswith("127.0.0.1:"), lease.address
