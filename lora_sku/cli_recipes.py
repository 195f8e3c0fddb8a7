"""The command that lists what is shipped."""

import json

import click

from lora_sku.cli_options import json_option


@click.command()
@json_option
def recipes(as_json: bool) -> None:
    """List the shipped recipes."""
    from lora_sku.recipe_file import load_recipe, shipped_recipes

    loaded = {name: load_recipe(path) for name, path in shipped_recipes().items()}
    facts = {
        name: {
            "model": recipe.base_model.path,
            "quantization": recipe.base_model.quantization,
            "forget": recipe.data.forget.path,
            "retain": recipe.data.retain.path,
        }
        for name, recipe in loaded.items()
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, fact in facts.items():
        click.echo(f"{name}\n  model   {fact['model']}, {fact['quantization']}")
        click.echo(f"  forget  {fact['forget']}\n  retain  {fact['retain']}")
