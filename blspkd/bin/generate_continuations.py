"""Let the LLM continue the transcripts of a data directory: one job's share, in parts that a restart skips."""

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
    from blspkd.generation.engines import make_engine
    from blspkd.generation.merge import is_merged
    from blspkd.generation.parts import Share, make_settings, plan_parts, remove_strangers
    from blspkd.generation.shares import jobs_with_work, num_batches, work_of_job
    from blspkd.kaldi.data_dir import KaldiDir
    from blspkd.kaldi.parts import Job, run_parts
    from blspkd.kaldi.sampling import written_for

    engine = make_engine(config)
    transcripts = {utterance.utt_id: utterance.text for utterance in KaldiDir.read(args.data_dir, need_audio=False)}
    transcripts = written_for(transcripts, vars(config))
    sizes = len(transcripts), config.part_size, config.batch_size
    work = work_of_job(*sizes, args.job, args.num_jobs)
    if not work:
        batches = num_batches(*sizes)
        print(f"{args.data_dir}: job {args.job} of {args.num_jobs}: nothing to do, because {len(transcripts)} "
              f"utterances are work for {jobs_with_work(batches)} jobs: {batches} batches of {config.batch_size}")
        return

    # Imported here, so that a job without work ends at once: these take seconds.
    from blspkd.generation.continuation import ContinuationWriter
    from blspkd.models.base_models import choose_device, model_identity

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
    states = {index: plan[index].state() for index in work}
    counts = Counter(states.values())
    print(f"{args.data_dir}: job {args.job} of {args.num_jobs}: {len(work)} parts, {counts['complete']} complete, "
          f"{counts['missing']} missing, {counts['incomplete']} incomplete, {counts['stale']} stale (made with other "
          "options, another model or other transcripts: written anew)", flush=True)
    todo = [(plan[index], batches) for index, batches in work.items() if states[index] != "complete"]
    if not todo:
        return
    writer = ContinuationWriter(args.llm, config, choose_device(job=args.job), args.job, engine)
    share = Share(todo, settings, writer.versions)
    batches = [writer.plan(part.transcripts)[chosen] for part, chosen in todo]
    run_parts("continuations", [Job(batches, {share: lambda batch, _: writer.rows(transcripts, batch)})])


if __name__ == "__main__":
    main()
