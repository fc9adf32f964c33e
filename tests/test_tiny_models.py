"""The tokenizer that takes MiniLM's place where its package is not installed."""

from transformers import AutoTokenizer

from tests.tiny_models import write_tiny_model, write_tokenizer


def test_the_tokenizer_knows_words_and_splits_others_into_letters(tmp_path):
    folder = write_tiny_model(tmp_path / "model", "roberta", write_tokenizer(tmp_path / "words"))

    tokenizer = AutoTokenizer.from_pretrained(folder)

    assert tokenizer.convert_ids_to_tokens(tokenizer("Red sofa, bin")["input_ids"]) == [
        *("[CLS]", "red", "sofa", "[UNK]", "b", "##i", "##n", "[SEP]")
    ]
    assert tokenizer.pad_token_id == 1
