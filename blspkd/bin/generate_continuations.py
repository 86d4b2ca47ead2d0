"""Let the LLM continue the transcripts of a data directory: one of several jobs, in parts that a restart skips."""

import argparse
from collections import Counter
from pathlib import Path

from blspkd.config import ContinuationConfig
from blspkd.config_file import load_config, to_dict
from blspkd.errors import command


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False,
        epilog="Further options --key value override the configuration, e.g. --max_new_tokens 40 --prompt.system ''.")
    parser.add_argument("--config", help="YAML file (blspkd.config.ContinuationConfig); default: its defaults")
    parser.add_argument("--llm", required=True, help="Hugging Face id or folder of a chat LLM")
    parser.add_argument("--data_dir", required=True, type=Path, help="data directory with the transcripts in `text`")
    parser.add_argument("--job", type=int, default=1, help="this job's number, from 1")
    parser.add_argument("--num_jobs", type=int, default=1, help="number of jobs that share the data directory")
    args, overrides = parser.parse_known_args(argv)
    config = load_config(ContinuationConfig, args.config, overrides)

    # Imported here, so that --help and mistakes in the options answer at once.
    from blspkd.generation.claims import Job
    from blspkd.generation.engines import make_engine
    from blspkd.generation.merge import is_merged
    from blspkd.generation.parts import PER_FOLDER, make_settings, plan_parts, remove_strangers
    from blspkd.generation.shares import Claims, check_job
    from blspkd.kaldi.transcripts import Transcripts, written_for

    engine = make_engine(config)
    transcripts = written_for(Transcripts.read(args.data_dir), vars(config))
    claims = Claims(len(transcripts), config.part_size, config.batch_size, args.num_jobs)
    check_job(args.job, args.num_jobs)
    if args.job > claims.jobs_with_work:
        print(f"{args.data_dir}: job {args.job} of {args.num_jobs}: nothing to do, because {len(transcripts)} "
              f"utterances are work for {claims.jobs_with_work} jobs: {claims.num_batches} batches of "
              f"{config.batch_size}")
        return

    # Imported here, so that a job without work ends at once: these take seconds.
    from blspkd.generation.continuation import ContinuationWriter
    from blspkd.models.base_models import choose_device, model_identity
    from blspkd.training.signals import handled, stop_at_once

    options = to_dict(config)
    prompt = options.pop("prompt")
    for values, key in (options, "max_utterances"), (prompt, "instructions"):
        if not values[key]:
            del values[key]  # these came later: what was written before stays as it is
    settings = make_settings(args.llm, model_identity(args.llm), prompt, engine.recorded(options, args.llm))
    plan = plan_parts(args.data_dir, transcripts, settings)
    if is_merged(args.data_dir, transcripts, settings):
        print(f"{args.data_dir}/continuation: up to date")
        return
    remove_strangers(args.data_dir, plan)
    found = f"{args.data_dir}: job {args.job} of {args.num_jobs}: {len(plan)} parts"
    if len(plan) <= PER_FOLDER:  # else it takes long to look at all of them
        counts = Counter(part.state() for part in plan)
        found += (f", {counts['complete']} complete, {counts['missing']} missing, {counts['incomplete']} incomplete, "
                  f"{counts['stale']} stale (made with other options, another model or other transcripts: written "
                  "anew)")
        if counts["complete"] == len(plan):
            print(found)
            return
    print(found, flush=True)
    writer = ContinuationWriter(args.llm, config, choose_device(job=args.job), args.job, engine)
    job = Job(plan, claims, writer, writer.versions)
    with handled(by=stop_at_once):
        job.run(first=claims.first_of_job(args.job, args.num_jobs))


if __name__ == "__main__":
    main()
