"""Cohere's rerank for the client, Bedrock's Rerank for the provider.

Source: spec llm section 2.13; Amazon Bedrock API reference (agents runtime, Rerank).
"""

from __future__ import annotations

from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.cloud_error import bedrock_error
from sidecar.llm.convert.provider_error import as_openai
from sidecar.llm.convert.rerank_documents import READ, query_of, result_of, texts_of, wanted_of
from sidecar.llm.convert.unary import UnaryConversion
from sidecar.llm.shape import ShapeError, to_objects


def _request(body: Json, context: Context) -> Json:
    model: Json = {"modelArn": model_arn(context)}
    others = {name: value for name, value in body.items() if name not in READ}
    others = {name: value for name, value in others.items() if value is not None}
    if others:
        model["additionalModelRequestFields"] = others
    config: Json = {"modelConfiguration": model}
    wanted = wanted_of(body)
    if wanted is not None:
        config["numberOfResults"] = wanted
    return {
        "queries": [{"type": "TEXT", "textQuery": {"text": query_of(body)}}],
        "sources": [_source(text) for text in texts_of(body, context)],
        "rerankingConfiguration": {
            "type": "BEDROCK_RERANKING_MODEL",
            "bedrockRerankingConfiguration": config,
        },
    }


def model_arn(context: Context) -> str:
    """The model's ARN in the provider's region (`Context.settings["region"]`)."""
    if context.model.startswith("arn:"):
        return context.model
    region = str(context.settings.get("region", ""))
    partition = "aws"
    if region.startswith("cn-"):
        partition = "aws-cn"
    elif region.startswith("us-gov-"):
        partition = "aws-us-gov"
    return f"arn:{partition}:bedrock:{region}::foundation-model/{context.model}"


def _source(text: str) -> Json:
    document = {"type": "TEXT", "textDocument": {"text": text}}
    return {"type": "INLINE", "inlineDocumentSource": document}


def _response(body: Json, context: Context) -> Json:
    if "results" not in body:
        raise ShapeError("results", "a list")
    results = [
        result_of(item.get("index"), item.get("relevanceScore"), context)
        for item in to_objects(body["results"], "results")
    ]
    return {"results": results}


CONVERSION: Conversion = UnaryConversion(
    _request, _response, lambda status, body: as_openai(status, bedrock_error(body))
)
