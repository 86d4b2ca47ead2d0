"""transformers' command line with our models in it: python -m blspkd.models.huggingface serve FOLDER.

Its server has neither keys nor limits and is for one's own machine; for others there is `blspkd serve`.
"""

from transformers.cli.transformers import main

from blspkd.models.huggingface import register

if __name__ == "__main__":
    register()
    main()
