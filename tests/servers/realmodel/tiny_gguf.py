"""GGUF files of tiny llama models with random weights: real files for a real loader, no meaning.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import array
import random
import struct

WIDTH, FEED_FORWARD, HEADS, CONTEXT = 64, 128, 4, 512
# Value types of metadata, and of tokens.
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
ALIGNMENT = 32


def write_tiny_gguf(path, name, layers):
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    tokens += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    tokens += [(text, NORMAL) for text in ["▁", *"abcdefghijklmnopqrstuvwxyz", "▁the", "▁a"]]
    tensors = _tensors(layers, len(tokens))
    metadata = _metadata(name, layers, tokens)

    infos, offset = [], 0
    for tensor, shape in tensors:
        infos.append(_text(tensor) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        infos.append(struct.pack("<IQ", 0, offset))  # 32-bit floats
        offset += _padded(4 * _count(shape))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(metadata) + b"".join(infos)

    chance = random.Random(name)
    weights = array.array("f", [chance.gauss(0, 0.08) for _ in range(64 * 1024)]).tobytes()
    ones = array.array("f", [1.0] * WIDTH).tobytes()
    with open(path, "wb") as file:
        file.write(head.ljust(_padded(len(head)), b"\0"))
        for tensor, shape in tensors:
            size = 4 * _count(shape)
            data = ones if "norm" in tensor else weights[:size]
            file.write(data.ljust(_padded(size), b"\0"))
        return file.tell()


def _metadata(name, layers, tokens):
    texts, kinds = zip(*tokens)
    count = len(tokens)
    values = [
        ("general.architecture", STRING, _text("llama")),
        ("general.name", STRING, _text(name)),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
        ("tokenizer.ggml.model", STRING, _text("llama")),
        ("tokenizer.ggml.tokens", ARRAY,
         struct.pack("<IQ", STRING, count) + b"".join(map(_text, texts))),
        ("tokenizer.ggml.scores", ARRAY,
         struct.pack(f"<IQ{count}f", FLOAT32, count, *[0.0] * count)),
        ("tokenizer.ggml.token_type", ARRAY, struct.pack(f"<IQ{count}i", INT32, count, *kinds)),
    ]  # fmt: skip
    numbers = {
        "llama.context_length": CONTEXT,
        "llama.embedding_length": WIDTH,
        "llama.block_count": layers,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": HEADS,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "llama.vocab_size": count,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    values += [(key, UINT32, struct.pack("<I", number)) for key, number in numbers.items()]
    return [_text(key) + struct.pack("<I", kind) + value for key, kind, value in values]


def _tensors(layers, vocabulary):
    found = [
        ("token_embd.weight", (WIDTH, vocabulary)),
        ("output_norm.weight", (WIDTH,)),
        ("output.weight", (WIDTH, vocabulary)),
    ]
    for layer in range(layers):
        shapes = {
            "attn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH, WIDTH),
            "attn_v": (WIDTH, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_norm": (WIDTH,),
            "ffn_gate": (WIDTH, FEED_FORWARD),
            "ffn_up": (WIDTH, FEED_FORWARD),
            "ffn_down": (FEED_FORWARD, WIDTH),
        }
        found += [(f"blk.{layer}.{part}.weight", shape) for part, shape in shapes.items()]
    return found


def _text(text):
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _count(shape):
    count = 1
    for side in shape:
        count *= side
    return count


def _padded(size):
    return size + -size % ALIGNMENT
