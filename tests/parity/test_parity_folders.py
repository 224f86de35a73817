"""Folders as `save_pretrained` writes them, model and tokenizer of one family: embeddings equal transformers'."""

import numpy as np
import pytest
import torch
import transformers

from conftest import relative_error, run, run_json
from families import bert_like, gpt2 as gpt2_sizes, opt as opt_sizes, t5 as t5_sizes
from test_parity_bpe import gpt2, mpnet, opt, roberta, write_jsonl
from test_parity_unigram import t5, trained, xlm_roberta  # noqa: F401 (a fixture)
from texts import make_texts
import reference as ref


def backend(tokenizer, **special):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


XLM = dict(bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", unk_token="<unk>", pad_token="<pad>",
           mask_token="<mask>")
FOLDERS = {  # tokenizer, class of the model, its configuration, how the file pools
    "roberta": (lambda _: roberta(), "RobertaModel", "RobertaConfig", bert_like(36, 2, 4, 60, 258, type_vocab_size=1), "mean"),
    "mpnet": (lambda _: mpnet(), "MPNetModel", "MPNetConfig", bert_like(36, 2, 4, 60, 258), "mean"),
    "gpt2": (lambda _: gpt2(), "GPT2Model", "GPT2Config", gpt2_sizes(36, 2, 4, 256), "last"),
    "opt": (lambda _: opt(), "OPTModel", "OPTConfig", opt_sizes(36, 2, 4, 60, 256, word_embed_proj_dim=36), "last"),
    "xlm-roberta": (lambda model: backend(xlm_roberta(model), **XLM), "XLMRobertaModel", "XLMRobertaConfig",
                    bert_like(36, 2, 4, 60, 258, type_vocab_size=1), "mean"),
    "t5": (lambda model: backend(t5(model), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"), "T5EncoderModel",
           "T5Config", t5_sizes(36, 8, 2, 3, 60, feed_forward_proj="gated-gelu"), "mean"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_embeddings(name, trained, tmp_path):  # noqa: F811
    make, model, config, sizes, pooling = FOLDERS[name]
    folder, tokenizer = tmp_path / "checkpoint", make(trained)
    torch.manual_seed(2)
    encoder = getattr(transformers, model)(getattr(transformers, config)(vocab_size=len(tokenizer), **sizes)).eval()
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run("convert", folder, "-o", tmp_path / "model.gguf", "--verify")
    specials = [token for token in ("<pad>", "<mask>", "</s>") if token in tokenizer.get_vocab()]
    texts = [text[:150] for text in make_texts(200, 8, also=specials) if text.strip()]
    got = run_json("main", "embed", "--model", tmp_path / "model.gguf", "--data", write_jsonl(tmp_path / "t.jsonl", texts),
                   "--text", "text", "--normalize", "no")
    wanted = []
    for text in texts:
        ids = torch.tensor([tokenizer.backend_tokenizer.encode(text).ids[:256]])
        with torch.no_grad():
            hidden = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        wanted.append(ref.pool(hidden, torch.ones_like(ids), pooling)[0].numpy())
    kept = [i for i, text in enumerate(texts) if len(tokenizer.backend_tokenizer.encode(text).ids) <= 256]
    assert len(kept) > 150
    error = relative_error(np.array([got[i]["embedding"] for i in kept]), np.array([wanted[i] for i in kept]))
    assert error <= 1e-4, f"{error:.2e}"
