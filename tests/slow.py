"""The tests of one process that take a second or more, with what they alone catch. The inner loop, `make quick`, leaves
them out; `make test` runs them."""

SLOW = {
    "cli/test_app.py::test_errors_are_one_message_with_what_to_do": "a traceback from a whole command, of every kind",
    "cli/test_examples.py::test_an_example_runs": "an example of a help text that no longer runs",
    "datasets/test_passed_over.py::test_names_of_any_bytes_go_through_doctor_and_search": "a stage that decodes a name",
    "datasets/test_adapters.py::test_an_object_may_have_an_empty_part_in_its_name": "a bucket's odd key",
    "datasets/test_diagnose.py::test_two_data_sets_with_the_same_folders_differ_in_their_classes": "a wrong name",
    "encode/test_index.py::test_a_run_that_ends_before_any_commit_continues_to_the_same_rows": (
        "rows that are lost, doubled or moved between two commits of an index"
    ),
    "encode/test_index.py::test_an_index_in_a_bucket_lists_pages_and_reads_only_what_is_new": "reads that are billed",
    "encode/test_index.py::test_an_index_of_a_thousand_adds_one": "one new photo that encodes others",
    "encode/test_index.py::test_purged_photos_are_gone_from_every_byte_of_the_store": "deleted photos that stay",
    "judge/test_planning.py::test_what_exists_fetches_no_weights_and_is_read_once": "weights fetched for no report",
    "tracking/test_history.py::test_one_page_of_runs_is_held": "a year of runs in memory",
    "tracking/test_history.py::test_older_evaluations_keep_what_is_drawn_over_time": "intervals that no page shows",
    "tracking/test_history.py::test_the_store_is_asked_for_the_reports_of_a_model": "other models' runs that are sent",
    "operate/test_estimate.py::test_a_count_is_the_arithmetic_of_the_layers": "FLOPs that are not counted",
    "operate/test_estimate.py::test_every_experiment_of_a_paper_is_dry_run": "an experiment that cannot be built",
    "operate/test_estimate.py::test_what_a_run_takes_follows_from_counts_and_rates": "an estimate off by a factor",
    "operate/test_experiments.py::test_experiments_are_listed_with_backbone_and_cost": "a cost of another network",
    "operate/test_import_checkpoint.py::test_a_published_checkpoint_scores_as_published": (
        "an import of published weights that scores otherwise than the published code"
    ),
    "search/test_explain.py::test_a_gallery_is_explained_in_the_order_of_the_search": "pages in another order",
    "search/test_explain.py::test_a_photo_is_explained_for_the_patches_asked_for": "a page of other patches",
    "search/test_searcher.py::test_every_mode_ranks_as_all_scores_do": "a mode that an index ranks otherwise",
    "store/test_foreign_stores.py::test_a_key_that_is_no_path_is_refused_by_its_name": "a key that leaves its folder",
    "search/test_searcher.py::test_pages_neither_repeat_nor_leave_out": "a photo on two pages",
    "store/test_foreign_stores.py::test_names_on_a_web_server_are_what_they_are_on_its_disk": "a name read as a URL",
    "store/test_foreign_stores.py::test_a_key_with_versionid_is_refused_and_odd_ones_are_read": "an older version read",
    "store/test_lease.py::test_a_container_with_the_same_host_name_is_waited_for": "two holders on one host name",
    "store/test_lease.py::test_a_holder_without_renewals_loses_the_lease_after_the_same_time": "clocks that disagree",
    "store/test_lease.py::test_a_live_holder_is_recognised_by_renewals_and_not_by_its_clock": "a lease that is robbed",
    "store/test_storage.py::test_a_part_is_never_read_from_half_an_answer": "a connection that breaks within a part",
    "store/test_storage.py::test_a_request_that_fails_once_is_retried": "a store's answer that is not tried again",
    "store/test_storage.py::test_a_request_that_keeps_failing_raises_an_error_with_the_reason": "an endless retry",
    "store/test_storage.py::test_many_reads_outlast_a_burst_of_slow_down": "503 SlowDown that ends a stage",
    "store/test_storage.py::test_uploads_and_downloads_of_a_folder_go_side_by_side": "transfers one after the other",
    "test_bench_check.py::test_a_pair_is_measured_in_a_process_of_its_own": "a pair that cannot be measured",
    "test_bench_check.py::test_a_process_of_a_pair_has_one_thread": "ratios that depend on the number of threads",
    "test_benchmarks.py::test_the_constants_of_sizes_are_measured": "README's constants, unmeasurable",
    "test_benchmarks.py::test_the_gpu_benchmark_compares_everything_that_a_method_computes": (
        "a method whose GPU path no benchmark checks"
    ),
    "test_benchmarks.py::test_the_gpu_benchmark_times_beside_the_eager_way": "a time without the plain way's beside it",
    "test_benchmarks.py::test_the_share_of_waiting_counts_the_time_between_steps": "a training that hides its waits",
    "test_dependencies.py::test_what_is_not_declared_is_found": "a check of packages that finds none",
    "test_docs.py::test_the_searcher_of_the_docs_searches": "an example of the docs that no longer runs",
    "test_dependencies.py::test_what_is_imported_is_declared": "a package that a fresh install lacks",
    "test_imports.py::test_a_fresh_interpreter_loads_only_what_it_needs": "an import that slows every command",
    "test_mutants.py::test_a_mutant_is_caught_by_a_test_that_fails_and_survives_others": "mutants not planted",
    "test_results.py::test_the_pages_are_what_the_rows_give": "a number in the docs that no row gives",
    "tracking/test_store.py::test_a_workspace_of_any_name_has_its_database_and_artifacts_in_it": "names it misreads",
    "tracking/test_store.py::test_an_upload_has_longer_than_a_request": "a large artifact that is cut off",
    "workspace/test_kept.py::test_mlflow_opens": "a database of an earlier version that MLflow refuses",
    "workspace/test_kept.py::test_a_run_finds_every_stage_done": "an artefact of an earlier version that is made again",
    "workspace/test_states.py::test_the_highest_complete_state_counts_despite_a_late_write": "an older state resumed",
    "zse_model/test_fit.py::test_a_budget_becomes_a_number_of_steps_and_is_kept": "a budget that is spent twice",
    "zse_model/test_fit.py::test_a_state_appears_whole_or_not_at_all": "a state that a kill cuts",
    "zse_model/test_fit.py::test_a_state_without_its_whole_optimizer_is_named": "a resume without its moments",
    "zse_model/test_fit.py::test_a_step_that_hangs_ends_the_process_with_its_stacks": "a worker that hangs for ever",
    "zse_model/test_fit.py::test_activations_computed_again_change_nothing": "dropout drawn anew in the backward pass",
    "zse_model/test_fit.py::test_each_check_is_told_and_kept_once_wherever_a_training_breaks": "a check told twice",
    "zse_model/test_fit.py::test_a_resumed_training_ends_with_the_same_weights": "a state that lacks something",
    "zse_model/test_fit.py::test_a_training_that_is_told_to_go_keeps_its_step_and_goes_on": "steps lost at SIGTERM",
    "zse_model/test_fit.py::test_two_halves_of_a_batch_are_one_step": "a gradient of a part of the batch",
    "zse_model/test_fit.py::test_half_precision_trains_float32_weights_to_nearly_the_same_losses": "bf16 that diverges",
    "zse_model/test_learns.py::test_a_trained_network_beats_an_untrained_one_on_classes_that_neither_has_seen": (
        "a training whose losses fall and whose retrieval does not rise"
    ),
    "zse_model/test_loss_choices.py::test_any_choice_of_losses_is_refused_or_reaches_every_parameter": (
        "a parameter without a gradient, at which DDP fails"
    ),
    "zse_model/test_methods.py::test_overfits_one_batch_to_a_loss_near_zero": "a loss that cannot reach its least",
    "zse_model/test_published.py::test_losses_and_gradients": "a gradient that is not the published code's",
    "zse_model/test_published.py::test_pairs": "a pair that scores otherwise than by the published code",
    "zse_model/test_published.py::test_the_encoder": "an encoder that is not the published code's",
    "zse_model/test_workers.py::test_the_number_of_workers_is_irrelevant_to_negatives_and_to_a_planned_batch": (
        "weights that depend on the number of workers"
    ),
    "zse_model/test_workers.py::test_three_workers_compute_the_shares_of_four": "shares of a lost worker",
}
"""Test below tests/, without its parameters -> what it alone catches."""
