"""What the library exports, and nothing else."""

import ast
import inspect
import types

import pytest

import nursery_patterns
import nursery_patterns.testing

# The contract of DESIGN.md, section 3, and the values its calls return.
PUBLIC = {
    "AIMD",
    "AdaptiveLimiter",
    "Admission",
    "AdmissionStatistics",
    "Batch",
    "BatchProgress",
    "BlockedStep",
    "ClusterEngine",
    "ClusterError",
    "ClusterJob",
    "ClusterLost",
    "ClusterStatistics",
    "CombinedLimiter",
    "Counts",
    "Frontier",
    "FrontierFull",
    "Gradient2",
    "HedgePolicy",
    "HedgeStatistics",
    "LimitAlgorithm",
    "Journal",
    "LimitSnapshot",
    "Limits",
    "NestedBatch",
    "Observer",
    "Outcome",
    "OutcomeStream",
    "Overloaded",
    "RemoteTraceback",
    "Report",
    "Retry",
    "RequestContext",
    "RequestLogFilter",
    "SingleFlight",
    "Status",
    "StepMonitor",
    "TimeBudget",
    "TokenBucket",
    "TokenBucketStatistics",
    "WorkerCrashed",
    "abandoned_threads",
    "check_in_cluster",
    "cluster_statistics",
    "connect_cluster",
    "current_default_cluster_limiter",
    "current_default_process_limiter",
    "current_default_thread_limiter",
    "current_request",
    "hedged",
    "released_slot",
    "request_context",
    "run_batch",
    "run_in_cluster",
    "run_in_process",
    "run_in_thread",
    "single_flight",
    "stream_batch",
    "time_budget",
    "usable_cpus",
    "use_cluster",
}
TESTING = {
    "CheckpointFailure",
    "InFlightGauge",
    "Probe",
    "cancel_at_every_checkpoint",
    "expire_at_every_instant",
}


def public_names(module):
    return {
        name
        for name in dir(module)
        if not name.startswith("_") and not isinstance(getattr(module, name), types.ModuleType)
    }


def test_the_library_exports_exactly_its_contract():
    assert public_names(nursery_patterns) == PUBLIC


def test_the_test_kit_exports_exactly_its_contract():
    ours = {
        name
        for name in public_names(nursery_patterns.testing)
        if getattr(getattr(nursery_patterns.testing, name), "__module__", "").startswith(
            "nursery_patterns"
        )
    }
    assert ours - {"ScenarioRun"} == TESTING == set(nursery_patterns.testing.__all__)


@pytest.mark.parametrize("module", [nursery_patterns, nursery_patterns.testing])
def test_what_is_made_elsewhere_is_exported_to_type_checkers_too(module):
    # To them, a name that is imported into a typed package is private, unless it is imported as
    # itself.
    imports = [
        alias
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    public = [alias for alias in imports if alias.name in PUBLIC | TESTING]
    assert public
    assert [alias.name for alias in public if alias.asname != alias.name] == []


@pytest.mark.parametrize("name", sorted(PUBLIC | TESTING))
def test_every_public_name_has_a_docstring_that_starts_with_a_sentence(name):
    module = nursery_patterns if name in PUBLIC else nursery_patterns.testing
    doc = inspect.getdoc(getattr(module, name))
    assert doc
    assert doc.split("\n\n")[0].rstrip().endswith((".", ":", "::"))


@pytest.mark.parametrize("name", sorted(PUBLIC | TESTING))
def test_every_public_method_has_a_docstring(name):
    module = nursery_patterns if name in PUBLIC else nursery_patterns.testing
    kind = getattr(module, name)
    if not inspect.isclass(kind) or issubclass(kind, tuple):
        return
    own = {
        attribute: value
        for attribute, value in vars(kind).items()
        if not attribute.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property))
    }
    inherited = {attribute for base in kind.__mro__[1:] for attribute in vars(base)}
    assert [a for a, value in own.items() if not inspect.getdoc(value) and a not in inherited] == []
