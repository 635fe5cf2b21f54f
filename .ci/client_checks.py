"""Checks of one environment of `.ci/clients`: each client ranks as the server does by hand."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from urllib.request import Request, urlopen

URL, KEY = os.environ["DIPAIR_URL"], os.environ["DIPAIR_CLIENT_KEY"]
QUERY = "why does dough rise"
TEXTS = [
    "Bees dance to tell where flowers are.",
    "The tides follow the moon, whose gravity pulls at the oceans.",
    "Yeast eats the sugar in dough and gives off the gas that lifts it.",
    "A baker lets dough rest in a warm place, so that it rises.",
]


def ask(path: str, body: object) -> dict:
    """The answer to a body, without any client."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    with urlopen(Request(URL + path, json.dumps(body).encode(), headers)) as answer:
        return json.loads(answer.read())


def expect(found: Sequence[tuple[int, float]], count: int = len(TEXTS)) -> None:
    """Compares places and scores with those of the server."""
    results = ask("/v2/rerank", {"query": QUERY, "documents": TEXTS})["results"][:count]
    right = [(each["index"], each["relevance_score"]) for each in results]
    assert [place for place, _ in found] == [place for place, _ in right], (found, right)
    for (_, score), (_, other) in zip(found, right, strict=True):
        assert abs(score - other) < 1e-6, (found, right)


def cohere() -> None:
    import cohere

    for client in (cohere.ClientV2(KEY, base_url=URL), cohere.Client(KEY, base_url=URL)):
        answer = client.rerank(model="m", query=QUERY, documents=TEXTS, top_n=3)
        expect([(each.index, each.relevance_score) for each in answer.results], 3)

    async def later() -> object:
        client = cohere.AsyncClientV2(KEY, base_url=URL)
        return await client.rerank(model="m", query=QUERY, documents=TEXTS)

    expect([(each.index, each.relevance_score) for each in asyncio.run(later()).results])


def langchain_cohere() -> None:
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    documents = [Document(text, metadata={"place": place}) for place, text in enumerate(TEXTS)]
    compressor = CohereRerank(cohere_api_key=KEY, base_url=URL, model="m", top_n=2)
    found = compressor.compress_documents(documents, QUERY)
    expect([(each.metadata["place"], each.metadata["relevance_score"]) for each in found], 2)


def langchain_infinity() -> None:
    from infinity_client.client import Client
    from langchain_community.document_compressors.infinity_rerank import InfinityRerank
    from langchain_core.documents import Document

    documents = [Document(text, metadata={"place": place}) for place, text in enumerate(TEXTS)]
    client = Client(
        URL, headers={"Authorization": f"Bearer {KEY}"}, raise_on_unexpected_status=True
    )
    found = InfinityRerank(client=client, model="m", top_n=2).compress_documents(documents, QUERY)
    expect([(each.metadata["place"], each.metadata["relevance_score"]) for each in found], 2)


def haystack() -> None:
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.cohere import CohereRanker
    from haystack_integrations.components.rankers.jina import JinaRanker

    key = Secret.from_token(KEY)
    for ranker in (
        CohereRanker(api_key=key, api_base_url=URL, top_k=3),
        JinaRanker(api_key=key, base_url=f"{URL}/v1/rerank", top_k=3),
    ):
        documents = [Document(content=text, meta={"at": at}) for at, text in enumerate(TEXTS)]
        found = ranker.run(query=QUERY, documents=documents)["documents"]
        expect([(each.meta["at"], each.score) for each in found], 3)


def rerankers() -> None:
    from rerankers.models.api_rankers import APIRanker

    for provider, path in (
        ("cohere", "/v1/rerank"),
        ("jina", "/v1/rerank"),
        ("voyage", "/v1/rerank"),
        ("text-embeddings-inference", "/rerank"),
    ):
        found = APIRanker("m", KEY, provider, url=URL + path).rank(QUERY, TEXTS).results
        expect([(each.document.doc_id, each.score) for each in found])


def llama_index() -> None:
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.cohere_rerank import CohereRerank
    from llama_index.postprocessor.jinaai_rerank import JinaRerank
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    for processor in (
        CohereRerank(api_key=KEY, base_url=URL, model="m", top_n=3),
        JinaRerank(api_key=KEY, base_url=f"{URL}/v1", model="m", top_n=3),
        TextEmbeddingInference(base_url=URL, auth_token=f"Bearer {KEY}", top_n=3),
    ):
        nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in TEXTS]
        found = processor.postprocess_nodes(nodes, query_str=QUERY)
        expect([(TEXTS.index(each.node.text), each.score) for each in found], 3)


def openai() -> None:
    import openai

    client = openai.OpenAI(api_key=KEY, base_url=f"{URL}/v1", max_retries=0)
    right = ask("/v1/embeddings", {"input": TEXTS})["data"]
    found = client.embeddings.create(model="m", input=TEXTS).data  # in base64
    for each, other in zip(found, right, strict=True):
        numbers = zip(each.embedding, other["embedding"], strict=True)
        assert max(abs(one - two) for one, two in numbers) < 1e-6
    assert [each.id for each in client.models.list()]


def langchain_openai() -> None:
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model="m", api_key=KEY, base_url=f"{URL}/v1", check_embedding_ctx_length=False
    )
    right = ask("/v1/embeddings", {"input": QUERY})["data"][0]["embedding"]
    assert max(abs(a - b) for a, b in zip(embeddings.embed_query(QUERY), right, strict=True)) < 1e-6


def voyage() -> None:
    import voyageai

    client = voyageai.Client(api_key=KEY, base_url=f"{URL}/v1")
    found = client.rerank(QUERY, TEXTS, "m", top_k=2).results
    expect([(each.index, each.relevance_score) for each in found], 2)
    assert len(client.embed(TEXTS, model="m", input_type="query").embeddings) == len(TEXTS)


def litellm() -> None:
    import litellm

    for model, base in (
        ("cohere/m", URL),
        ("jina_ai/m", f"{URL}/v1"),
        ("hosted_vllm/m", URL),
        ("voyage/m", f"{URL}/v1"),
        ("huggingface/m", URL),
        ("infinity/m", URL),
    ):
        # Infinity's provider reads documents as texts
        more = {"return_documents": False} if model == "infinity/m" else {}
        answer = litellm.rerank(
            model=model, query=QUERY, documents=TEXTS, top_n=3, api_base=base, api_key=KEY, **more
        )
        expect([(each["index"], each["relevance_score"]) for each in answer.results], 3)


if __name__ == "__main__":
    failed = 0
    for name in sys.argv[1:]:
        try:
            globals()[name]()
        except Exception as error:
            failed += 1
            print(f"FAIL  {name}: {type(error).__name__}: {str(error)[:300]}")
        else:
            print(f"ok    {name}")
    sys.exit(bool(failed))
