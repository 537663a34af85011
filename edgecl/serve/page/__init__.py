"""The page: screens and an interface over HTTP, on Starlette and uvicorn (the extra `web`)."""
