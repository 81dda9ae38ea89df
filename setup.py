"Packaging. All settings are in settings.ini; edit there, not here."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

settings = ConfigParser(delimiters=['='])
settings.read('settings.ini', encoding='utf-8')
cfg = settings['DEFAULT']
library = cfg['lib_path']
setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    license='Apache-2.0',
    url=cfg['git_url'],
    keywords=cfg['keywords'],
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=[library, f'{library}.*']),
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require={name: cfg[f'{name}_requirements'].split() for name in ('dev', 'recognize', 'onnx')},
    package_data={cfg['lib_name']: ['models/*']},
    entry_points=dict(console_scripts=cfg['console_scripts'].split(),
                      nbdev=[f'{library}={library}._modidx:d']),
    zip_safe=False)
