"""Your model, your images: which way of transferring should you use?"""

import sys

import ktransfer


def main(model, images, time_limit="10m"):
    found = ktransfer.recommend(images, [model], time_limit=time_limit)
    print(found.table)
    return found.export("exported")


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
