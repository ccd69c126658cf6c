"""The official Python client of OpenAI against a running `winnow serve models/winnow-nano`.

    python3 tests/clients/openai_client.py http://127.0.0.1:8000
"""
import sys

import openai

base = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
client = openai.OpenAI(base_url=base + "/v1", api_key="any")
question = [{"role": "user", "content": "The door code of the Dublin library is 70316.\n\n"
                                        "What is the door code of the Dublin library?"}]

assert client.models.list().data[0].id == "winnow-nano"
answer = client.chat.completions.create(model="winnow-nano", messages=question, temperature=0,
                                        logprobs=True, top_logprobs=2, seed=1, n=2)
assert [choice.message.content for choice in answer.choices] == ["70316"] * 2, answer
assert answer.choices[0].finish_reason == "stop"
assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
assert answer.usage.model_extra["winnow"]["prefill"]["tokens"] >= 1, answer.usage

text, usage = "", None
for chunk in client.chat.completions.create(model="winnow-nano", messages=question, temperature=0,
                                            stream=True, stream_options={"include_usage": True}):
    text += "".join(choice.delta.content or "" for choice in chunk.choices)
    usage = chunk.usage or usage
assert text == "70316", text
assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

completion = client.completions.create(model="winnow-nano", prompt="Once upon a", max_tokens=4,
                                       temperature=0, logprobs=1, echo=True)
assert completion.choices[0].text.startswith("Once upon a"), completion
assert completion.choices[0].logprobs.token_logprobs[0] is None

for refused, arguments in [
        (openai.NotFoundError, {"model": "other", "messages": question}),
        (openai.BadRequestError, {"model": "winnow-nano", "messages": question, "temperature": 9}),
        (openai.BadRequestError, {"model": "winnow-nano", "messages": []})]:
    try:
        client.chat.completions.create(**arguments)
    except refused as error:
        assert error.body["message"], error
    else:
        raise AssertionError(f"{arguments}: not refused")

stream = client.chat.completions.create(model="winnow-nano", messages=question, stream=True,
                                        max_tokens=2000, extra_body={"ignore_eos": True})
next(iter(stream))
stream.close()
print("openai", openai.__version__, "ok")
