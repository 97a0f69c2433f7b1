import enum


class AscendDeviceType(enum.Enum):
    A2 = 0


def get_ascend_device_type():
    return AscendDeviceType.A2
