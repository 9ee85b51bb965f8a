"""Every ROS parameter of the tracker node, in one table."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.lifecycle import LifecycleNode

from masa_ros.engines.prepare import EngineConfig
from masa_ros.engines.runtimes import RUNTIMES
from masa_ros.errors import ConfigError
from masa_ros.models.detector import DetectorConfig
from masa_ros.models.precision import PRECISIONS
from masa_ros.nodes.qos import PROFILES
from masa_ros.pipeline import PipelineConfig
from masa_ros.tracking import ASSOCIATIONS, ReleasedConfig, TrackerConfig, make_config


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes
    ----------
    name, default, description: as declared.
    limits: smallest and largest value of a number.
    choices: allowed values of a string.
    live: may be changed while the node runs; the others are read when it is configured.

    """

    name: str
    default: Any
    description: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """Return the ROS descriptor."""
        constraints = []
        if self.choices:
            constraints.append('one of: ' + ', '.join(self.choices))
        if not self.live:
            constraints.append('read when the node is configured')
        descriptor = ParameterDescriptor(
            name=self.name,
            description=self.description,
            additional_constraints='; '.join(constraints),
        )
        if self.limits and isinstance(self.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=self.limits[0], to_value=self.limits[1])
            ]
        elif self.limits:
            low, high = (int(limit) for limit in self.limits)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor


_TRACKER, _RELEASED = TrackerConfig(), ReleasedConfig()


def _tracking(name: str, high: float, description: str, low: float = 0) -> Parameter:
    default = getattr(_TRACKER, name)
    limits = None if isinstance(default, bool) else (low, high)
    return Parameter(name, default, description, limits, live=True)


def _released(name: str, high: float, description: str, low: float = 0) -> Parameter:
    default = getattr(_RELEASED, name)
    limits = None if isinstance(default, (bool, str)) else (low, high)
    choices = ('bisoftmax', 'softmax', 'cosine') if name == 'match_metric' else ()
    return Parameter(f'released.{name}', default, description, limits, choices, live=True)


PARAMETERS = (
    Parameter('autostart', True, 'configure and activate without a lifecycle manager'),
    Parameter('model', 'masa_nano', 'name of the model'),
    Parameter('weights', '', 'path of a weights file; empty: the one shipped with the model'),
    Parameter('device', 'auto', "where to run: 'auto', 'cpu', 'cuda' or 'cuda:N'"),
    Parameter(
        'precision',
        'auto',
        'arithmetic of the network; auto: fp16 on a GPU, fp32 on a CPU; mixed: fp16 for '
        'convolutions and linear layers alone',
        choices=('auto', *PRECISIONS),
    ),
    Parameter(
        'runtime',
        'auto',
        'what runs the network; auto: TensorRT where it is installed, else torch.compile, on a '
        'CPU eager PyTorch',
        choices=('auto', *RUNTIMES),
    ),
    Parameter(
        'warm_start',
        True,
        'track with eager PyTorch until the engines are built; otherwise wait for them',
    ),
    Parameter(
        'camera_size',
        '',
        'size of the images as WIDTHxHEIGHT, for which engines are prepared when the node is '
        'configured; empty: at the first image',
    ),
    Parameter(
        'calibration',
        '',
        'folder of images on which engines are compared with PyTorch, besides built-in ones',
    ),
    Parameter('build_only', False, 'prepare the engines for camera_size and end: for installers'),
    Parameter(
        'input_size',
        0,
        "long side of the network's input, pixels; 0: the model's own. Larger finds smaller "
        'objects and is slower',
        (0, 4096),
        live=True,
    ),
    Parameter('masks', True, 'predict masks', live=True),
    Parameter(
        'score_threshold',
        -1.0,
        "detections below this score are dropped before association; -1: the model's own",
        (-1, 1),
        live=True,
    ),
    Parameter(
        'nms_iou',
        -1.0,
        "of two boxes that overlap more the better one stays; -1: the model's own",
        (-1, 1),
        live=True,
    ),
    Parameter(
        'mask_share',
        -1.0,
        'of two masks the smaller of which lies in the other by more than this share, the better '
        "one stays; 1: both; -1: the model's own",
        (-1, 1),
        live=True,
    ),
    Parameter(
        'max_instances',
        0,
        "at most that many detections; 0: the model's own",
        (0, 1000),
        live=True,
    ),
    Parameter(
        'association',
        'robot',
        'robot: by looks and motion, in seconds; tao, bdd: the released rules, see released.*',
        choices=ASSOCIATIONS,
    ),
    _tracking('init_score_thr', 1, 'a detection above this score may start a track'),
    _tracking('obj_score_thr', 1, 'a detection must score above this to continue a track'),
    _tracking('match_score_thr', 1, 'similarity above which two sightings are one object'),
    _tracking('reid_score_thr', 1, 'the same for an object that comes back somewhere else'),
    _tracking('distractor_score_thr', 1, 'below this score an overlapping box is a duplicate'),
    _tracking('distractor_nms_thr', 1, 'overlap (IoU) that makes a box a duplicate'),
    _tracking('memo_momentum', 1, "weight of a new sighting in a track's appearance"),
    Parameter(
        'gallery_size',
        _TRACKER.gallery_size,
        'unlike sightings remembered of each track; 1: only the average',
        (1, 100),
    ),
    _tracking('memory_seconds', 3600, 'a track unseen for longer is forgotten, seconds'),
    _tracking('memory_frames', 100000, 'the same in frames; 0: no such limit'),
    _tracking('motion_weight', 1, 'share of place against looks in the similarity'),
    _tracking('predict_motion', 1, 'expect tracks where their velocity takes them'),
    _tracking('camera_motion', 1, "take movement that objects have in common for the camera's"),
    _tracking('max_distance', 100, 'allowed surprise in place, in sides of the object'),
    _tracking('max_resize', 10, 'allowed change of its side, as a logarithm'),
    _tracking('max_speed', 100, 'its growth for every second unseen, in sides of the object'),
    _tracking('optimal_assignment', 1, 'the best set of pairs, not one best pair after the other'),
    _tracking('two_stage', 1, 'detections below init_score_thr choose their tracks last'),
    _tracking('confirm_frames', 100, 'sightings after which a track is no longer tentative'),
    _tracking('confirm_score', 1, 'score above which one sighting is enough'),
    _tracking(
        'coast_seconds', 60, 'for so long an undetected track is looked for where expected; 0: off'
    ),
    _tracking('coast_steady_thr', 1, 'only tracks detected in a larger share of the last frames'),
    _tracking('coast_score_thr', 1, 'what is found there must score above this'),
    _tracking('coast_look_thr', 1, 'and its cosine to the track must exceed this'),
    _tracking('vote_labels', 1, "publish the label of most of a track's sightings"),
    Parameter('publish_tentative', False, 'publish tentative tracks too', live=True),
    Parameter('publish_lost', False, 'publish lost tracks too, where last seen', live=True),
    _released('init_score_thr', 1, 'an unmatched detection above this score starts a track'),
    _released('obj_score_thr', 1, 'a detection must score above this to continue a track'),
    _released('match_score_thr', 1, 'similarity above which two sightings are one object'),
    _released('memo_tracklet_frames', 100000, 'a track unseen for so many frames is forgotten'),
    _released('memo_momentum', 1, "weight of a new sighting in a track's appearance"),
    _released('distractor_score_thr', 1, 'tao: below this score an overlapping box is dropped'),
    _released('distractor_nms_thr', 1, 'tao: overlap (IoU) for that'),
    _released('max_distance', 10000, 'tao: gate on the distance, pixels; -1: none', -1),
    _released('fps', 1000, 'tao: rate of the recording, which the gate depends on', 0.001),
    _released('memo_backdrop_frames', 1000, 'bdd: frames that unmatched detections are kept'),
    _released('nms_conf_thr', 1, 'bdd: a weak detection this like a track is dropped'),
    _released('nms_backdrop_iou_thr', 1, 'bdd: overlap that makes a weak detection a duplicate'),
    _released('nms_class_iou_thr', 1, 'bdd: overlap that makes a good detection a duplicate'),
    _released('with_cats', 1, 'bdd: only sightings of one class match'),
    _released('match_metric', 1, 'bdd: how the looks are compared'),
    Parameter('publish_embeddings', False, 'fill the field embedding', live=True),
    Parameter(
        'max_rate', 0.0, 'process at most so many images per second; 0: all', (0, 1000), live=True
    ),
    Parameter(
        'on_time_jump',
        'reset',
        'what to do with the tracks when stamps jump back (a bag that loops)',
        choices=('reset', 'continue'),
        live=True,
    ),
    Parameter(
        'silence_seconds',
        2.0,
        'diagnostics warn when no image came for so long',
        (0.1, 3600),
        live=True,
    ),
    Parameter(
        'cameras',
        [''],
        "names of several cameras for one model: NAME/image_raw in, '~/NAME/tracks' out; empty: "
        'one camera without a name',
    ),
    Parameter('common_ids', False, 'ids of different cameras are never the same'),
    Parameter(
        'on_device_failure',
        'cpu',
        'what to do when the GPU is out of memory or gone: go on on the CPU, become '
        'unconfigured, or try again with the next image',
        choices=('cpu', 'deactivate', 'continue'),
        live=True,
    ),
    Parameter(
        'image_transport',
        'raw',
        "raw: sensor_msgs/Image on 'image_raw'; compressed: sensor_msgs/CompressedImage on its "
        "'/compressed'",
        choices=('raw', 'compressed'),
    ),
    Parameter(
        'given_detections',
        False,
        "track the boxes that come as vision_msgs/Detection2DArray on 'detections' instead of "
        "the model's own",
    ),
    Parameter(
        'detections_slop',
        0.05,
        'seconds by which the stamps of an image and its detections may differ',
        (0, 10),
    ),
    Parameter('image_qos', 'sensor_data', 'QoS of the image topic', choices=tuple(PROFILES)),
    Parameter('image_queue', 1, 'images kept by the middleware while the node is busy', (1, 100)),
    Parameter('tracks_qos', 'reliable', 'QoS of the tracks', choices=tuple(PROFILES)),
)
BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The parameters' values, checked and sorted by who needs them."""

    pipeline: PipelineConfig
    values: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        """Return the value of a parameter that belongs to the node itself."""
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Settings:
        """Check values by name; raises ConfigError naming the parameter."""
        for name, value in values.items():
            parameter = BY_NAME[name]
            if parameter.choices and value not in parameter.choices:
                choices = ', '.join(parameter.choices)
                raise ConfigError(f"{name} is '{value}'; it must be one of: {choices}")
        model_own = {'score_threshold': -1.0, 'nms_iou': -1.0, 'mask_share': -1.0}
        for name in model_own:
            if -1 < values[name] < 0:
                raise ConfigError(f'{name} is {values[name]}; it must be in 0..1, or -1')
        detector: dict[str, Any] = {
            field.name: None
            if values[field.name] == (model_own | {'max_instances': 0}).get(field.name)
            else values[field.name]
            for field in dataclasses.fields(DetectorConfig)
        }
        tracker = make_config(values['association'], values.__getitem__, 'released.')
        names = [name for name in values['cameras'] if name]
        wrong = next((n for n in names if not re.fullmatch('[A-Za-z][A-Za-z0-9_]*', n)), None)
        if wrong is not None or len(set(names)) < len(names):
            what = 'names one twice' if wrong is None else f"has '{wrong}', which names no topic"
            raise ConfigError(f'cameras {what}: {", ".join(names)}')
        if values['build_only'] and not values['camera_size']:
            raise ConfigError('build_only needs camera_size')
        engines = EngineConfig(
            runtime=values['runtime'],
            warm_start=values['warm_start'] and not values['build_only'],
            camera=values['camera_size'],
            calibration=values['calibration'],
        )
        config = PipelineConfig(DetectorConfig(**detector), tracker, engines)
        return cls(config, values)


def overrides(config: PipelineConfig) -> dict[str, Any]:
    """Return the parameters that make a node run this pipeline."""
    values = dataclasses.asdict(config.detector)
    engines = dataclasses.asdict(config.engines)
    values |= {
        'camera_size' if k == 'camera' else k: v for k, v in engines.items() if k != 'folder'
    }
    tracker = dataclasses.asdict(config.tracker)
    if isinstance(config.tracker, TrackerConfig):
        values |= {'association': 'robot', **tracker}
    else:
        values['association'] = tracker.pop('rules')
        values |= {f'released.{name}': value for name, value in tracker.items()}
    return {name: value for name, value in values.items() if value is not None and value != ''}


def declare(node: LifecycleNode) -> None:
    """Declare all parameters on a node."""
    for parameter in PARAMETERS:
        node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())


def read(node: LifecycleNode) -> Settings:
    """Return the node's settings; raises ConfigError naming the parameter."""
    return Settings.from_values({name: node.get_parameter(name).value for name in BY_NAME})
