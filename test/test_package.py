"""The package as a whole: what is declared, documented and installed fits together."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from masa_ros.msg import TrackedInstance, TrackedInstanceArray
from rclpy.serialization import deserialize_message, serialize_message

from masa_ros.errors import ConfigError
from masa_ros.models.detector import DetectorConfig
from masa_ros.nodes.parameters import PARAMETERS, Settings, overrides
from masa_ros.pipeline import PipelineConfig
from masa_ros.share import share_path
from masa_ros.tracking import ReleasedConfig, TrackerConfig

ROOT = Path(__file__).resolve().parents[1]


def test_a_message_survives_serialisation():
    message = TrackedInstanceArray(image_height=480, image_width=640, model='masa_nano')
    message.instances = [TrackedInstance(track_id=2**63, mask_counts=[1, 2, 3], score=0.5)]
    again = deserialize_message(serialize_message(message), TrackedInstanceArray)
    assert again == message


@pytest.mark.parametrize('name', ['TrackedInstance', 'TrackedInstanceArray'])
def test_every_field_is_explained(name):
    lines = share_path(f'msg/{name}.msg').read_text().splitlines()
    explained = False
    for line in lines:
        if not line.strip():
            explained = False
        elif line.startswith('#'):
            explained = True
        else:
            explained = explained or '#' in line
            assert explained, f'{name}: {line}'


def test_the_configuration_file_holds_the_declared_parameters():
    document = yaml.safe_load(share_path('config/tracker.yaml').read_text())
    values = document['/**']['ros__parameters']
    assert values == {p.name: p.default for p in PARAMETERS}
    assert list(values) == [p.name for p in PARAMETERS]


def test_generated_files_are_up_to_date():
    before = [(ROOT / name).read_text() for name in ('config/tracker.yaml', 'docs/node.md')]
    subprocess.run([sys.executable, ROOT / 'tools' / 'parameter_tables.py'], check=True, cwd='/')
    after = [(ROOT / name).read_text() for name in ('config/tracker.yaml', 'docs/node.md')]
    assert before == after


def test_parameters_are_described_and_their_defaults_allowed():
    for parameter in PARAMETERS:
        assert re.fullmatch('[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)?', parameter.name)
        assert parameter.description
        if parameter.choices:
            assert parameter.default in parameter.choices
        if parameter.limits:
            assert parameter.limits[0] <= parameter.default <= parameter.limits[1]
        numeric = isinstance(parameter.default, (int, float))
        assert parameter.limits or isinstance(parameter.default, bool) or not numeric
    Settings.from_values({p.name: p.default for p in PARAMETERS})


@pytest.mark.parametrize(
    'tracker',
    [
        TrackerConfig(motion_weight=0.25, two_stage=False),
        ReleasedConfig(rules='bdd', match_metric='cosine', with_cats=True),
        ReleasedConfig(rules='tao', max_distance=100.0, fps=30.0),
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_pipeline_survives_the_way_through_the_parameters(tracker):
    config = PipelineConfig(DetectorConfig(nms_iou=0.4), tracker)
    values = {p.name: p.default for p in PARAMETERS} | overrides(config)
    assert Settings.from_values(values).pipeline.tracker == tracker
    assert Settings.from_values(values).pipeline.detector.nms_iou == 0.4


@pytest.mark.parametrize(
    'name, value', [('precision', 'int4'), ('score_threshold', -0.5), ('image_qos', 'best')]
)
def test_values_that_are_not_allowed_are_named(name, value):
    values = {p.name: p.default for p in PARAMETERS}
    with pytest.raises(ConfigError, match=name):
        Settings.from_values(values | {name: value})


@pytest.mark.parametrize('name', ['tracker', 'replay'])
def test_launch_files_describe_their_arguments(name):
    launch = pytest.importorskip('launch', reason='ROS launch is not on the package index')
    pytest.importorskip('launch_ros', reason='launch_ros is not on the package index')
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(str(share_path(f'launch/{name}.launch.py')))
    description = source.get_launch_description(launch.LaunchContext())
    for argument in description.get_launch_arguments():
        assert argument.description


def test_links_in_the_documents_lead_somewhere():
    for document in [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]:
        for target in re.findall(r'\]\(([^)#:]+)\)', document.read_text()):
            assert (document.parent / target).exists(), f'{document.name}: {target}'


def test_nothing_imports_against_the_direction():
    allowed = {
        'models': {'models'},
        'engines': {'engines', 'models'},
        'tracking': {'tracking'},
        'training': {
            *('training', 'models', 'tracking', 'pipeline'),
            *('evaluation.metrics', 'evaluation.recall', 'evaluation.truth'),
        },
        'evaluation': {'evaluation', 'pipeline', 'tracking'},
        'replay': {
            *('replay', 'evaluation', 'pipeline', 'engines', 'tracking', 'models', 'training'),
            'nodes.player',
        },
    }
    values = {'types', 'errors', 'masks', 'images', 'overlay', 'share', 'msg', 'tracks_file'}
    for folder, names in allowed.items():
        for file in (ROOT / 'masa_ros' / folder).glob('*.py'):
            for module in re.findall(r'from masa_ros\.([\w.]+) import', file.read_text()):
                fits = module in names or module.split('.')[0] in names | values
                assert fits, f'{file.name} imports {module}'
                if folder == 'replay' and module.startswith('nodes'):
                    assert module == 'nodes.player', f'{file.name} imports {module}'
